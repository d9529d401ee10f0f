"""Registering NSE in EasyEdit, also twice."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from nse_plugin.easyedit import register
from nse_plugin.hparams import NSEHyperParams


def test_registering_twice_is_registering_once(easyeditor: Any) -> None:
    algorithms = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    batch_editor = importlib.import_module("easyeditor.editors.batch_editor").BatchEditor
    editor = importlib.import_module("easyeditor.editors.editor").BaseEditor
    methods = ("__init__", "edit", "batch_edit", "edit_requests")

    def installed() -> list[Any]:
        return [algorithms["NSE"], batch_editor.is_batchable_method, *(getattr(editor, m) for m in methods)]

    before = installed()
    register()
    assert [id(thing) for thing in installed()] == [id(thing) for thing in before]


def test_what_was_batchable_stays_so(easyeditor: Any) -> None:
    is_batchable = importlib.import_module("easyeditor.editors.batch_editor").BatchEditor.is_batchable_method
    assert is_batchable("NSE")
    assert is_batchable("MEMIT")
    assert not is_batchable("ROME")


def test_somebody_elses_nse_is_not_replaced(easyeditor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithms = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    monkeypatch.setitem(algorithms, "NSE", lambda *_: None)
    with pytest.raises(RuntimeError, match="already has an algorithm 'NSE'"):
        register()


def test_a_name_that_easyedit_does_not_know(easyeditor: Any, hparams: NSEHyperParams) -> None:
    hparams.model_name = "folder/smollm2"
    with pytest.raises(NotImplementedError, match=r"smollm2.*make_editor"):
        easyeditor.BaseEditor.from_hparams(hparams)
