"""Make an EasyEdit editor for a model that is already loaded."""

from __future__ import annotations

import copy
import importlib
from typing import TYPE_CHECKING, Any

from nse_plugin.easyedit.algorithm import ALG_NAME
from nse_plugin.easyedit.register import register
from nse_plugin.models.loading import easyedit_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nse_plugin.hparams import NSEHyperParams


def make_editor(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> Any:
    """Return a working EasyEdit `BaseEditor` for a loaded model of any architecture.

    The editor edits `model` in place, on its current device. It gets copies of `tokenizer` and `hparams`
    (`editor.tok`, `editor.hparams`) with the settings that EasyEdit expects; the originals are not modified.

    Raises:
        ImportError: EasyEdit was not found.
        ValueError: the tokenizer has neither a pad nor an eos token.
    """
    register()
    hparams = copy.copy(hparams)
    tokenizer = ready_to_pad(tokenizer, left=hparams.alg_name == ALG_NAME)
    hparams.device = easyedit_device(model.device)
    model_name = hparams.model_name or type(model).__name__
    hparams.model_name = (model, tokenizer)  # type: ignore[assignment]  # EasyEdit accepts such a pair here
    editor = importlib.import_module("easyeditor.editors.editor").BaseEditor.from_hparams(hparams)
    hparams.model_name = model_name
    # EasyEdit's evaluators search this name for words such as "t5", which means an encoder-decoder. A class name,
    # unlike a folder name, contains such a word only if it applies.
    editor.model_name = type(model).__name__
    return editor


def ready_to_pad(tokenizer: PreTrainedTokenizerBase, left: bool) -> PreTrainedTokenizerBase:
    """Return a copy of the tokenizer with a pad token. left: also set the padding side to left, because EasyEdit's
    evaluators extract answers from a padded batch as if all padding were on the left. Raises ValueError if the
    tokenizer has neither a pad nor an eos token."""
    tokenizer = copy.deepcopy(tokenizer)
    if left:
        tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has neither a pad nor an eos token: set its pad_token first.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
