"""NSE as EasyEdit calls an algorithm: `apply_to_model(model, tok, requests, hparams, ...)`.

EasyEdit never says whether a call belongs to a sequence, and may put old weights back behind the algorithm's back.
So the state follows the weights: the edited matrices' fingerprints before and after the last round are kept beside the
model, and tell at the next call whether that round stands, was undone, or someone else changed the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from nse_plugin.facts import Fact, FactError
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.multilayer import DONE
from nse_plugin.models.fingerprint import fingerprint
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.session import EditSession
from nse_plugin.state import EditState

log = logging.getLogger(__name__)

ALG_NAME = "NSE"

_MEASURED_WITH = ("seed", "mom2_dataset", "mom2_n_samples", "mom2_dtype", "stats_dir")


@dataclass
class _LastRound:
    """The last round made on a model: what the weights tell of it, and the state either way.

    before, after: fingerprints by layer. undone, standing: the state if the weights are those.
    """

    before: dict[int, int]
    after: dict[int, int]
    undone: EditState
    standing: EditState
    measured_with: tuple[Any, ...]
    rewrite_module_tmp: str | None


class NSE:
    """The algorithm class. One instance may serve many models; each has its own state, held by weak reference."""

    def __init__(self) -> None:
        self._rounds: WeakKeyDictionary[nn.Module, _LastRound] = WeakKeyDictionary()

    def apply_to_model(
        self,
        model: nn.Module,
        tok: Any,
        requests: Sequence[Mapping[str, Any]],
        hparams: NSEHyperParams,
        copy: bool = False,
        return_orig_weights: bool = False,
        **_: Any,
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """Write one round of requests into the model (EasyEdit's contract).

        requests: EasyEdit's: `prompt` (the subject written out, or `{}`), `subject`, `target_new`. copy: edit a copy.
        return_orig_weights: also return the edited matrices as they were at entry, by parameter name.
        Returns (edited model, those tensors or {}). Raises FactError, HyperParamsError, LayoutError, MomentsError or
        UpdateError; the model is then as it was.
        """
        if not isinstance(hparams, NSEHyperParams):
            raise HyperParamsError(f"hparams is a {type(hparams).__name__}: alg_name NSE needs NSEHyperParams.")
        facts = [_fact(request, number) for number, request in enumerate(requests)]
        hparams.check()
        layout = Layout.of(model, hparams.rewrite_module_tmp)
        state = self._state(model, layout, hparams)
        if copy:
            model = deepcopy(model)
            layout = Layout.of(model, hparams.rewrite_module_tmp)
            state = state.branched()
        matrices = layout.output_matrices(hparams.layers)
        before = _fingerprints(matrices)
        originals = {matrix.name: matrix.weight.detach().clone() for matrix in matrices.values() if return_orig_weights}
        standing = state.branched()
        report = EditSession(model, tok, hparams, state=standing).edit(facts)
        state.templates, state.moments = standing.templates, standing.moments
        self._rounds[model] = _LastRound(
            before, _fingerprints(matrices), state, standing, _measured_with(hparams), hparams.rewrite_module_tmp
        )
        log.info("NSE: %s", report)
        for row in report.frame[report.frame["status"] != DONE].itertuples():
            log.warning("NSE: fact %s is %s, residual %.4g.", row.case_id, row.status, row.residual)
        return model, originals

    def state_of(self, model: nn.Module) -> EditState | None:
        """What is remembered of a model, in line with its present weights.

        None before its first edit, and after someone else changed the edited weights.
        """
        last = self._rounds.get(model)
        if last is None:
            return None
        layout = Layout.of(model, last.rewrite_module_tmp)
        return _matching(last, _fingerprints(layout.output_matrices(last.standing.layers)))

    def adopt(self, model: nn.Module, state: EditState, hparams: NSEHyperParams) -> None:
        """Take a state over for a model whose present weights are those of the state's last round."""
        layout = Layout.of(model, hparams.rewrite_module_tmp)
        now = _fingerprints(layout.output_matrices(hparams.layers))
        self._rounds[model] = _LastRound(now, now, state, state, _measured_with(hparams), hparams.rewrite_module_tmp)

    def _state(self, model: nn.Module, layout: Layout, hparams: NSEHyperParams) -> EditState:
        last = self._rounds.get(model)
        if last is None:
            return EditState.fresh(layout, hparams.layers)
        state = _matching(last, _fingerprints(layout.output_matrices(last.standing.layers)))
        if state is None:
            log.warning(
                "NSE: the edited weights were changed by someone else since the last round: starting afresh from them. "
                "Earlier rounds are no longer protected, and these weights now count as the original ones."
            )
            return EditState.fresh(layout, hparams.layers)
        if state.layers != hparams.layers:
            if state.reports:
                log.warning(
                    "NSE: layers changed from %s to %s after %d rounds: starting afresh from the present weights.",
                    state.layers, hparams.layers, len(state.reports),
                )  # fmt: skip
            return EditState.fresh(layout, hparams.layers)
        if last.measured_with != _measured_with(hparams):
            state.templates = state.moments = None
        return state


def _fact(request: Mapping[str, Any], number: int) -> Fact:
    if not isinstance(request, Mapping):
        raise FactError(
            f"request {number} is a {type(request).__name__}, not a mapping with prompt, subject and target_new."
        )
    wanted = ("case_id", "prompt", "subject", "target_new")
    return Fact.from_record({name: request[name] for name in wanted if name in request}, case_id=number)


def _fingerprints(matrices: Mapping[int, OutputMatrix]) -> dict[int, int]:
    return {layer: fingerprint(matrix.weight.data) for layer, matrix in matrices.items()}


def _measured_with(hparams: NSEHyperParams) -> tuple[Any, ...]:
    return tuple(getattr(hparams, name) for name in _MEASURED_WITH)


def _matching(last: _LastRound, now: dict[int, int]) -> EditState | None:
    if now == last.after:
        return last.standing
    return last.undone if now == last.before else None


nse = NSE()  # the instance that `register()` puts into EasyEdit
apply_nse_to_model = nse.apply_to_model
