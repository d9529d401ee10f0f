"""Apply MEND's trained network, one fact at a time."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import BatchEncoding

from nse_plugin.baselines.mend.archive import ArchiveError, archive_path, check_archive, remedy
from nse_plugin.baselines.mend.scope import at_work, device_named, on_wheel, settings_for
from nse_plugin.baselines.requests import prompts_and_targets
from nse_plugin.easyedit.locate import import_easyedit
from nse_plugin.models.prompts import split_target

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class MEND:
    """EasyEdit's `MendRewriteExecutor` with its trained network; it refers to a model only during a call."""

    def __init__(self) -> None:
        self._executor: Any = None
        self._loaded: tuple[Path, int, tuple[str, ...]] | None = None

    def apply_to_model(
        self,
        model: nn.Module,
        tok: PreTrainedTokenizerBase,
        requests: Sequence[Mapping[str, object]],
        hparams: Any,
        copy: bool = False,
        return_orig_weights: bool = False,
        keep_original_weight: bool = False,
        **_: object,
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """Write requests into the model one after another (EasyEdit's contract).

        requests: `prompt` (with the subject written out, or with `{}` and a `subject`) and `target_new`. hparams:
        EasyEdit's MENDHyperParams. copy: edit a copy of the model.
        Returns (edited model, {name: weight before the edit, [d, f] or as the module stores it} of the `inner_params`).
        The second item is {} without `return_orig_weights`, and on the wheel also without `keep_original_weight`, since
        the wheel then lets edits accumulate.
        Raises FactError, HyperParamsError, or ArchiveError if there is no archive that can be used.
        """
        texts = prompts_and_targets(requests)
        import_easyedit()
        settings = settings_for(hparams, model)
        path = archive_path(hparams)
        if not path.is_file():
            raise ArchiveError(f"MEND needs a trained network, and there is no archive {path}: {remedy(path, hparams)}")
        wanted = (path, path.stat().st_mtime_ns, tuple(settings.inner_params))
        if copy:
            model = deepcopy(model)
        parameters = dict(model.named_parameters())
        originals = {name: parameters[name].detach().clone() for name in settings.inner_params}
        with at_work(model, settings), device_named(settings):
            if self._loaded != wanted:
                self._executor, self._loaded = _executor(model, tok, settings, path, hparams), wanted
            executor = self._executor
            executor.model = executor.alg.model = model
            executor.alg.eval()  # the wheel does not, and its edits would change the network's statistics
            try:
                for text in texts:
                    executor.tokenizer = _OneFact(tok, text)
                    one = {"prompt": text[0], "target_new": text[1]}
                    executor.apply_to_model(model, tok, [one], settings)
            except BaseException:
                with torch.no_grad():
                    for name, original in originals.items():
                        parameters[name].copy_(original)
                raise
            finally:
                executor.model = executor.alg.model = executor.tokenizer = None
        wanted_back = return_orig_weights and (keep_original_weight or not on_wheel())
        return model, originals if wanted_back else {}


mend = MEND()
apply_mend_to_model = mend.apply_to_model


def _executor(model: nn.Module, tok: PreTrainedTokenizerBase, settings: Any, path: Path, hparams: Any) -> Any:
    """Create EasyEdit's executor with the archive's network. The archive is read from a private copy, so it cannot
    change between the check and loading. Raises ArchiveError."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        check_archive(copy, path, hparams)
        return _executor_with(model, tok, settings, copy, path)


def _executor_with(model: nn.Module, tok: PreTrainedTokenizerBase, settings: Any, copy: Path, path: Path) -> Any:
    executor = importlib.import_module("easyeditor.models.mend").MendRewriteExecutor()
    try:
        executor.init_model(model, tok, dataclasses.replace(settings, archive=str(copy)))
    except RuntimeError as error:
        raise ArchiveError(
            f"{path} does not fit these hyperparameters and this model ({str(error).splitlines()[-1].strip()}): use "
            "the rank, n_hidden, shared and model it was trained with."
        ) from error
    return executor


class _OneFact:
    """Replacement for the tokenizer in EasyEdit's executor, which tokenizes the whole sentence and the target."""

    pad_token_id = -1  # nothing is padded

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: tuple[str, str, str]) -> None:
        self._prompt = text[0]
        self._ids = split_target(tokenizer, *text)

    def __call__(self, texts: Sequence[str], **_: object) -> BatchEncoding:
        (text,) = texts
        prompt, target = self._ids
        row = torch.tensor([prompt + target if text.startswith(self._prompt) else target])
        return BatchEncoding({"input_ids": row, "attention_mask": torch.ones_like(row)})
