"""Register `alg_name: NSE` with the imported EasyEdit."""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

from nse_plugin.easyedit import wheel
from nse_plugin.easyedit.algorithm import ALG_NAME, apply_nse_to_model
from nse_plugin.easyedit.datasets import keep_zsre_subjects
from nse_plugin.easyedit.locate import import_easyedit
from nse_plugin.easyedit.requests import checked


def register() -> None:
    """Make `alg_name: NSE` work in EasyEdit's `BaseEditor`; calling it again changes nothing.

    With the PyPI wheel, call it before the first `from easyeditor import ...`: as published, the wheel
    cannot be imported with a current transformers.

    Raises:
        ImportError: EasyEdit was not found or could not be imported; the message gives the remedy.
        RuntimeError: this EasyEdit already has an algorithm of that name.
    """
    import_easyedit()
    # imported by full names: as attributes, some modules are hidden by functions of the same name (`import *`)
    editor_module = importlib.import_module("easyeditor.editors.editor")
    algorithms = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    if ALG_NAME in algorithms:
        if inspect.unwrap(algorithms[ALG_NAME]) == apply_nse_to_model:
            return
        raise RuntimeError(f"This EasyEdit already has an algorithm {ALG_NAME!r} ({algorithms[ALG_NAME]!r}).")

    if wheel.is_wheel(editor_module):
        wheel.adapt(editor_module)
        algorithms[ALG_NAME] = wheel.restoring_only_when_asked(apply_nse_to_model)
    else:
        algorithms[ALG_NAME] = apply_nse_to_model
    _name_the_way_out(editor_module.BaseEditor)
    for method in ("edit", "batch_edit"):
        setattr(editor_module.BaseEditor, method, checked(getattr(editor_module.BaseEditor, method)))
    _make_batchable(importlib.import_module("easyeditor.editors.batch_editor").BatchEditor)
    keep_zsre_subjects(importlib.import_module("easyeditor.dataset").ZsreDataset)


def _make_batchable(batch_editor: Any) -> None:
    """Add NSE to the fixed list of names in `BatchEditor.is_batchable_method`."""
    is_batchable = batch_editor.is_batchable_method
    batch_editor.is_batchable_method = staticmethod(lambda name: name == ALG_NAME or is_batchable(name))


def _name_the_way_out(base_editor: Any) -> None:
    """Give the constructor's NotImplementedError a message with the remedy: EasyEdit chooses its loader by words in the
    model's name and raises the error without a message if it knows none of them."""
    load = base_editor.__init__

    @functools.wraps(load)
    def load_or_explain(self: Any, hparams: Any) -> None:
        try:
            load(self, hparams)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"EasyEdit has no loader for model_name {hparams.model_name!r}: load the model yourself and "
                "use nse_plugin.make_editor(model, tokenizer, hparams)."
            ) from error

    base_editor.__init__ = load_or_explain
