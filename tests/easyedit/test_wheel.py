"""The adaptations that NSE needs to run in the wheel."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nse_plugin.easyedit import wheel
from nse_plugin.hparams import NSEHyperParams

Use = Callable[..., Any]


@pytest.mark.parametrize("device", ["cpu", 0])
def test_the_device_of_the_hparams(
    device: int | str,
    easyeditor: Any,
    on_main: bool,
    tiny_llama_source: Any,
    tiny_tokenizer: Any,
    hparams: NSEHyperParams,
    capitals: Use,
    tmp_path: Path,
) -> None:
    if device == 0 and (on_main or torch.cuda.is_available()):
        pytest.skip("a GPU's number without a GPU: only the wheel's shim allows it")
    folder = tmp_path / "tiny-llama"
    tiny_llama_source.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    hparams.model_name, hparams.device = str(folder), device
    editor = easyeditor.BaseEditor.from_hparams(hparams)
    assert editor.model.device.type == "cpu"
    metrics, _, _ = editor.batch_edit(**capitals("France"), sequential_edit=True)
    assert "rewrite_acc" in metrics[0]["post"]


def test_a_device_name_means_the_device_only_inside_the_editor(easyeditor: Any, on_main: bool) -> None:
    if on_main:
        pytest.skip("only the wheel writes cuda:cpu")
    with pytest.raises(RuntimeError):
        torch.zeros(1, device="cuda:cpu")


def test_the_metrics_of_every_batch_come_back(tiny_llama: Any, editor_of: Use, capitals: Use) -> None:
    editor = editor_of(tiny_llama)
    arguments = capitals()
    metrics, model, _ = editor.batch_edit(**arguments, sequential_edit=True)
    assert [metric["requested_rewrite"]["subject"] for metric in metrics] == arguments["subject"]
    assert model is tiny_llama
    assert editor.hparams.batch_size == 2


def test_edit_does_not_spoil_batch_edit(on_main: bool, tiny_llama: Any, editor_of: Use, capitals: Use) -> None:
    editor = editor_of(tiny_llama)
    if on_main:  # main asks for 1 itself
        editor.hparams.batch_size = 1
    before = editor.hparams.batch_size
    editor.edit(**capitals("Peru"), sequential_edit=False)
    assert editor.hparams.batch_size == before


def test_trace_shows_decoder_layers_in_tuples(tiny_llama: Any, on_main: bool) -> None:
    if on_main:
        pytest.skip("a shim of the wheel")
    nethook = importlib.import_module("easyeditor.util.nethook")
    own, ids = nethook.Trace, torch.tensor([[1, 2, 3]])
    plain = tiny_llama(ids).logits
    with wheel.layers_in_tuples(tiny_llama.model.layers):
        layers = ["model.layers.1", "model.layers.2.mlp"]
        with nethook.TraceDict(tiny_llama, layers, edit_output=lambda output, layer: output) as seen:
            assert torch.equal(tiny_llama(ids).logits, plain)
        assert seen["model.layers.1"].output[0].shape == (1, 3, 32)
        assert seen["model.layers.2.mlp"].output.shape == (1, 3, 32)
        with nethook.Trace(tiny_llama, "model.layers.1", edit_output=lambda output: (output[0] + 1,)):
            assert not torch.equal(tiny_llama(ids).logits, plain)
    assert nethook.Trace is own
