"""NSE as EasyEdit calls an algorithm: `apply_to_model(model, tok, requests, hparams, ...)`.

EasyEdit never says whether a call belongs to a sequence, and may put old weights back behind the algorithm's back.
So the state follows the weights: what is remembered of a model is kept beside it, and its history tells from the
weights which rounds stand, or that someone else changed them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from nse_plugin.facts import Fact, FactError
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.knowledge import Knowledge
from nse_plugin.method.multilayer import DONE
from nse_plugin.models.identity import fingerprint
from nse_plugin.models.layout import Layout
from nse_plugin.session import EditSession
from nse_plugin.session.history import History
from nse_plugin.session.report import RoundReport
from nse_plugin.session.state import EditState, StateError, weights_of

log = logging.getLogger(__name__)

ALG_NAME = "NSE"

_MEASURED_WITH = ("seed", "mom2_dataset", "mom2_n_samples", "mom2_dtype", "stats_dir")


@dataclass
class _Remembered:
    """What is kept beside a model. rewrite_module_tmp, measured_with: of the hyperparameters of its last call."""

    state: EditState
    rewrite_module_tmp: str | None
    measured_with: tuple[Any, ...]


class NSE:
    """The algorithm class. One instance may serve many models; each has its own state, held by weak reference."""

    def __init__(self) -> None:
        self._models: WeakKeyDictionary[nn.Module, _Remembered] = WeakKeyDictionary()

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
        UpdateError; the model, and what is remembered of it, is then as it was.
        """
        if not isinstance(hparams, NSEHyperParams):
            raise HyperParamsError(f"hparams is a {type(hparams).__name__}: alg_name NSE needs NSEHyperParams.")
        facts = [_fact(request, number) for number, request in enumerate(requests)]
        hparams.check()
        remembered = self._models.get(model)
        if copy:
            model = deepcopy(model)
            remembered = (
                None if remembered is None else dataclasses.replace(remembered, state=remembered.state.branched())
            )
        session = self._session(model, tok, hparams, remembered)
        matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
        originals = {matrix.name: matrix.weight.detach().clone() for matrix in matrices.values() if return_orig_weights}
        report = self._edit(model, session, facts, hparams)
        log.info("NSE: %s", report)
        for row in report.frame[report.frame["status"] != DONE].itertuples():
            log.warning("NSE: fact %s is %s, residual %.4g.", row.case_id, row.status, row.residual)
        return model, originals

    def state_of(self, model: nn.Module) -> EditState | None:
        """What is remembered of a model, in line with its present weights.

        None before its first edit, and after someone else changed the edited weights.
        """
        remembered = self._models.get(model)
        if remembered is None:
            return None
        matrices = Layout.of(model, remembered.rewrite_module_tmp).output_matrices(remembered.state.layers)
        return remembered.state.at(weights_of(matrices, fingerprint))

    def adopt(self, model: nn.Module, state: EditState, protected: Knowledge, hparams: NSEHyperParams) -> None:
        """Remember a model that was edited in another process.

        state: with its original weights. protected: the keys of the rounds that its present weights hold.
        """
        matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
        history = History(weights_of(matrices, fingerprint), protected_before=protected, knowledge=protected)
        state = dataclasses.replace(state, history=history)
        self._models[model] = _Remembered(state, hparams.rewrite_module_tmp, _measured_with(hparams))

    def _edit(
        self, model: nn.Module, session: EditSession, facts: Sequence[Fact], hparams: NSEHyperParams
    ) -> RoundReport:
        """The session's state is remembered before the round, so that the round's commit into it is the last step."""
        before = self._models.get(model)
        self._models[model] = _Remembered(session.state, hparams.rewrite_module_tmp, _measured_with(hparams))
        try:
            return session.edit(facts)
        except BaseException:
            del self._models[model]
            if before is not None:
                self._models[model] = before
            raise

    def _session(
        self, model: nn.Module, tok: Any, hparams: NSEHyperParams, remembered: _Remembered | None
    ) -> EditSession:
        """A session that goes on from what is remembered, or starts afresh where that does not fit."""
        if remembered is None:
            return EditSession(model, tok, hparams, read_fingerprint=fingerprint)
        state = remembered.state
        try:
            session = EditSession(model, tok, hparams, state=state, read_fingerprint=fingerprint)
        except StateError:
            _warn_of_fresh_start(state, model, hparams)
            return EditSession(model, tok, hparams, read_fingerprint=fingerprint)
        if remembered.measured_with != _measured_with(hparams):
            state.templates = state.moments = None
        return session


def _fact(request: Mapping[str, Any], number: int) -> Fact:
    if not isinstance(request, Mapping):
        raise FactError(
            f"request {number} is a {type(request).__name__}, not a mapping with prompt, subject and target_new."
        )
    wanted = ("case_id", "prompt", "subject", "target_new")
    return Fact.from_record({name: request[name] for name in wanted if name in request}, case_id=number)


def _measured_with(hparams: NSEHyperParams) -> tuple[Any, ...]:
    return tuple(getattr(hparams, name) for name in _MEASURED_WITH)


def _warn_of_fresh_start(state: EditState, model: nn.Module, hparams: NSEHyperParams) -> None:
    """Say why earlier rounds are no longer protected, where there were any."""
    matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
    names = {layer: matrix.name for layer, matrix in matrices.items()}
    if names == state.matrices:
        log.warning(
            "NSE: the edited weights were changed by someone else since the last round: starting afresh from them. "
            "Earlier rounds are no longer protected, and these weights now count as the original ones."
        )
    elif state.reports:
        log.warning(
            "NSE: the edited matrices changed from %s to %s after %d rounds: starting afresh from the present weights.",
            ", ".join(state.matrices.values()), ", ".join(names.values()), len(state.reports),
        )  # fmt: skip


nse = NSE()  # the instance that `register()` puts into EasyEdit
apply_nse_to_model = nse.apply_to_model
