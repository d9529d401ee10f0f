"""Keep a method's edits for `save_models`, as a session's folder or a patch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nse_plugin.baselines.runner import EasyEditRunner
from nse_plugin.easyedit.algorithm import ALG_NAME as NSE
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.experiments.plan import ModelChoice
from nse_plugin.experiments.record import PATCH, SESSION
from nse_plugin.facts import Fact
from nse_plugin.models.identity import fingerprint
from nse_plugin.models.loading import load
from nse_plugin.patch.between import patch_between
from nse_plugin.patch.columns import PatchError
from nse_plugin.session.edited import EditedModel
from nse_plugin.session.folder.copy import SessionCopy, rounds_to
from nse_plugin.session.folder.lock import now


class KeptEdits:
    """Keep the edits of one method of a comparison in its folder: for NSE as a session, written round by round; for
    another method that changes weights as a patch, written at the end. Edits of methods that wrap layers are not kept.

    folder: the method's folder. model: the model that the method edits, for loading it again unedited.
    """

    def __init__(self, folder: Path, runner: EasyEditRunner, tokenizer: Any, model: ModelChoice) -> None:
        self._folder, self._runner, self._tokenizer, self._model = folder, runner, tokenizer, model
        self._copy: SessionCopy | None = None

    def leads_to(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether the edits up to a saved state (tensors of any shape) were kept. The model must be unedited."""
        if self._runner.alg_name != NSE:
            return True
        edited = self._edited()
        weights = {
            layer: fingerprint(state.get(f"weights.{matrix.name}", matrix.weight.data))
            for layer, matrix in edited.matrices.items()
        }
        return rounds_to(self._folder / SESSION, weights) is not None

    def begin(self, anew: bool) -> None:
        """Start keeping edits, before the first round of this run. anew: delete what was kept before."""
        if self._runner.alg_name != NSE:
            return
        if anew:
            shutil.rmtree(self._folder / SESSION, ignore_errors=True)
        state = None if anew else nse.state_of(self._runner.model)
        self._copy = SessionCopy(
            self._folder / SESSION, self._edited(), None if state is None else state.history.masters or {}
        )

    def add_round(self) -> None:
        """Keep the last round. Called after each round."""
        if self._copy is not None:
            state = nse.state_of(self._runner.model)
            assert state is not None
            self._copy.add(state)

    def finish(self, facts: Sequence[Fact], hparams: Mapping[str, Any]) -> str:
        """Finish after the last round, and return the name of the session or patch, or a sentence on why there is none.
        For a patch, the unedited model is loaded once more."""
        if self._copy is not None:
            self._copy.close()
            return SESSION
        name = self._runner.alg_name
        if not self._runner.edits_weights:
            return "its edits are more than changed weights, and a patch holds nothing else: they are not kept."
        base, _ = load(self._model.source, self._model.dtype, self._model.device)
        hparams = {**hparams, "alg_name": name}
        try:
            patch_between(base, self._runner.model, self._tokenizer, hparams, facts, now()).save(self._folder / PATCH)
        except PatchError as error:
            return f"no patch can be made: {error}"
        return PATCH

    def _edited(self) -> EditedModel:
        return EditedModel(self._runner.model, self._tokenizer, self._runner.hparams)
