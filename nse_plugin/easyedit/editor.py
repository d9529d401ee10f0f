"""An EasyEdit editor for a model that is loaded already."""

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
    """A working EasyEdit `BaseEditor` for a loaded model, of whatever architecture.

    The editor edits `model` itself, on the device it is on. It gets copies of `tokenizer` and `hparams`
    (`editor.tok`, `editor.hparams`), set up as EasyEdit expects them; yours stay as they are.

    Raises:
        ImportError: EasyEdit was not found.
        ValueError: the tokenizer has neither a pad nor an eos token.
    """
    register()
    hparams = copy.copy(hparams)
    tokenizer = ready_to_pad(tokenizer, left=hparams.alg_name == ALG_NAME)
    hparams.device = easyedit_device(model.device)
    model_name = hparams.model_name or type(model).__name__
    hparams.model_name = (model, tokenizer)  # type: ignore[assignment]  # EasyEdit's own way in for a pair
    editor = importlib.import_module("easyeditor.editors.editor").BaseEditor.from_hparams(hparams)
    hparams.model_name = model_name
    # EasyEdit's evaluators search this name for words, and take "t5" for an encoder-decoder: a class's name,
    # unlike a folder's, holds such a word only when it is true.
    editor.model_name = type(model).__name__
    return editor


def ready_to_pad(tokenizer: PreTrainedTokenizerBase, left: bool) -> PreTrainedTokenizerBase:
    """A copy with a pad token, padding on the left where asked: EasyEdit's evaluators cut the answers out
    of a padded batch as if all padding stood on the left."""
    tokenizer = copy.deepcopy(tokenizer)
    if left:
        tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has neither a pad nor an eos token: set its pad_token first.")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
