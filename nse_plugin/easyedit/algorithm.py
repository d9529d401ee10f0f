"""NSE with EasyEdit's interface for algorithms: `apply_to_model(model, tok, requests, hparams, ...)`.

EasyEdit never indicates whether a call belongs to a sequence, and may restore old weights between calls. The state
therefore follows the weights: it is stored per model, and its history determines from the current weights which rounds
are active, or that other code changed the weights.

Each choice of layers has its own state, original weights and rounds. The state is continued whenever the weights of
these layers are as one of its rounds left them, or as they were before the first round. This is also the case if other
layers were edited in between, or a round in overlapping layers was undone. While a round in overlapping layers is
active, the weights count as changed by other code.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conversion import warn_of_found_subjects
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.method.multilayer import DONE
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.models.identity import fingerprint
from nse_plugin.models.layout import Layout
from nse_plugin.session import EditSession
from nse_plugin.session.history import History
from nse_plugin.session.report import RoundReport
from nse_plugin.session.state import EditState, StateError, weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ALG_NAME = "NSE"

_MEASURED_WITH = ("seed", "mom2_dataset", "mom2_n_samples", "mom2_dtype", "stats_dir")


@dataclass
class _Remembered:
    """The data stored for a model and one choice of layers. rewrite_module_tmp, measured_with: hyperparameters of the
    last call with these layers."""

    state: EditState
    rewrite_module_tmp: str | None
    measured_with: tuple[Any, ...]


_States = dict[tuple[str, ...], _Remembered]  # of one model, by the names of the edited matrices; the latest is last


class NSE:
    """The algorithm class. One instance can edit many models, to which it holds weak references. It stores one state
    per model and choice of layers, with a copy of the original weights of these layers."""

    def __init__(self) -> None:
        self._models: WeakKeyDictionary[nn.Module, _States] = WeakKeyDictionary()

    def apply_to_model(
        self,
        model: nn.Module,
        tok: PreTrainedTokenizerBase,
        requests: Sequence[Mapping[str, object]],
        hparams: NSEHyperParams,
        copy: bool = False,
        return_orig_weights: bool = False,
        **_: object,
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """Write one round of requests into the model (EasyEdit's contract).

        requests: EasyEdit's requests, with `prompt` (subject written out, or `{}`), `subject`, `target_new`, and
        optionally `separator` and `aliases` as in Fact. A missing `subject` is found in `prompt` and `rephrase_prompt`.
        copy: edit a copy of the model.
        return_orig_weights: also return the edited matrices from before this call ([d, f] of a Linear, [f, d] of a
        Conv1D), by parameter name.
        Returns (edited model, those tensors or {}). Raises FactError, HyperParamsError, LayoutError, MomentsError or
        UpdateError; the model and its stored states are then unchanged.
        """
        if not isinstance(hparams, NSEHyperParams):
            raise HyperParamsError(f"hparams is a {type(hparams).__name__}: alg_name NSE needs NSEHyperParams.")
        facts = [_fact(request, number) for number, request in enumerate(requests)]
        warn_of_found_subjects(requests, facts, "NSE: ")
        hparams.check()
        completed = hparams.completed(model)  # EasyEdit hands the same object in at every call
        hparams.alpha, hparams.v_lr = completed.alpha, completed.v_lr
        states = self._models.get(model, {})
        if copy:
            model = deepcopy(model)
        session = self._session(model, tok, hparams, states)
        matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
        originals = {matrix.name: matrix.weight.detach().clone() for matrix in matrices.values() if return_orig_weights}
        report = self._edit(model, session, facts, hparams, states)
        log.info("NSE: %s", report)
        for row in report.frame[report.frame["status"] != DONE].itertuples():
            log.warning("NSE: fact %s is %s, residual %.4g.", row.case_id, row.status, row.residual)
        return model, originals

    def state_of(self, model: nn.Module) -> EditState | None:
        """Return the state of a model for the layers that were edited last, with the rounds that its current weights
        contain.

        Returns None before the first edit, and after other code changed the edited weights.
        """
        remembered = _latest(self._models.get(model, {}))
        if remembered is None:
            return None
        matrices = Layout.of(model, remembered.rewrite_module_tmp).output_matrices(remembered.state.layers)
        return remembered.state.at(weights_of(matrices, fingerprint))

    def adopt(
        self,
        model: nn.Module,
        state: EditState,
        protected: ProtectedKeys,
        facts: Sequence[Fact],
        hparams: NSEHyperParams,
        masters: Mapping[int, Tensor],
    ) -> None:
        """Store a state for a model that was edited in another process.

        state: a state with the model's original weights. protected, facts: the keys and the facts of the rounds in the
        current weights. masters: the master copies of a bfloat16 or float16 model, {layer: [d, f] or [f, d] as its
        module stores it}; empty if not known.
        """
        matrices = Layout.of(model, hparams.rewrite_module_tmp).output_matrices(hparams.layers)
        weights = weights_of(matrices, fingerprint)
        copies = {layer: copied.to(matrices[layer].weight.device) for layer, copied in masters.items()}
        history = History(
            weights, protected_before=protected, facts_before=tuple(facts), knowledge=protected, masters=copies or None
        )
        state = dataclasses.replace(state, history=history)
        self._models[model] = _with(self._models.get(model, {}), state, hparams)

    def _edit(
        self, model: nn.Module, session: EditSession, facts: Sequence[Fact], hparams: NSEHyperParams, states: _States
    ) -> RoundReport:
        """Make a round. The session's state is stored before the round, so that committing the round to it is the last
        step.

        states: the states stored for the model so far; they are stored again if the round fails.
        """
        state, history = session.state, session.state.history
        try:
            self._models[model] = _with(states, state, hparams)
            return session.edit(facts)
        except BaseException:
            if state.history is history:
                self._models[model] = states
            raise

    def _session(
        self, model: nn.Module, tok: PreTrainedTokenizerBase, hparams: NSEHyperParams, states: _States
    ) -> EditSession:
        """Return a session that continues from the stored state, or a new one if that state does not fit the model."""
        matrices = Layout.of(model, hparams.rewrite_module_tmp).edited_matrices(hparams.layers)
        remembered = states.get(tuple(matrix.name for matrix in matrices.values()))
        if remembered is not None:
            state = remembered.state.branched()
            if remembered.measured_with != _measured_with(hparams):
                state.forget_measured()
            try:
                return EditSession(model, tok, hparams, state=state, read_fingerprint=fingerprint, undoable=False)
            except StateError:
                log.warning(
                    "NSE: the edited weights were changed by someone else since the last round in these layers, or by "
                    "rounds in others: starting afresh from them. Earlier rounds are no longer protected, and these "
                    "weights now count as the original ones."
                )
        elif (latest := _latest(states)) is not None and latest.state.reports:
            log.warning(
                "NSE: the edited matrices changed from %s to %s after %d rounds: starting afresh from the present "
                "weights.", ", ".join(latest.state.matrices.values()),
                ", ".join(matrix.name for matrix in matrices.values()), len(latest.state.reports),
            )  # fmt: skip
        return EditSession(model, tok, hparams, read_fingerprint=fingerprint, undoable=False)


def _fact(request: Mapping[str, object], number: int) -> Fact:
    if not isinstance(request, Mapping):
        raise FactError(
            f"request {number} is a {type(request).__name__}, not a mapping with prompt, subject and target_new."
        )
    wanted = ["case_id", "prompt", "subject", "target_new", "separator", "aliases"]
    if request.get("subject") is None:
        wanted.append("rephrase_prompt")
    return Fact.from_record({name: request[name] for name in wanted if name in request}, case_id=number)


def _measured_with(hparams: NSEHyperParams) -> tuple[object, ...]:
    return tuple(getattr(hparams, name) for name in _MEASURED_WITH)


def _with(states: _States, state: EditState, hparams: NSEHyperParams) -> _States:
    """Return the states with the state of a call with `hparams` added last, replacing the one for the same layers."""
    name = tuple(state.matrices.values())
    others = {matrices: remembered for matrices, remembered in states.items() if matrices != name}
    return {**others, name: _Remembered(state, hparams.rewrite_module_tmp, _measured_with(hparams))}


def _latest(states: _States) -> _Remembered | None:
    return next(reversed(states.values()), None)


nse = NSE()  # the instance that `register()` adds to EasyEdit
apply_nse_to_model = nse.apply_to_model
