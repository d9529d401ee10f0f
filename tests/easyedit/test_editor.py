"""EasyEdit's editor with NSE: loading, the ways to edit, and the returned metrics and models."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nse_plugin.easyedit import make_editor
from nse_plugin.hparams import NSEHyperParams

Use = Callable[..., Any]


def test_the_easyedit_at_hand(easyeditor: Any, on_main: bool) -> None:
    if not on_main:
        pytest.skip("these tests ran on the wheel: set EASYEDIT_HOME to a clone to run them on EasyEdit main")
    assert Path(os.environ["EASYEDIT_HOME"]).resolve() in Path(easyeditor.__file__).resolve().parents


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_from_hparams_loads_a_local_folder(
    name: str,
    easyeditor: Any,
    tiny_tokenizer: Any,
    hparams: NSEHyperParams,
    capitals: Use,
    edited: Use,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    protected: Use,
) -> None:
    source = request.getfixturevalue(f"{name.replace('-', '_')}_source")
    source.save_pretrained(tmp_path / name)
    tiny_tokenizer.save_pretrained(tmp_path / name)
    hparams.model_name = str(tmp_path / name)
    editor = easyeditor.BaseEditor.from_hparams(hparams)
    text = "The capital of the United States is Washington"
    assert editor.tok(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    assert editor.tok.padding_side == "left"
    before = edited(editor.model)
    editor.batch_edit(**capitals("France", "Peru", "Italy"), sequential_edit=True)
    assert any(not torch.equal(weight, before[name]) for name, weight in edited(editor.model).items())
    assert protected(editor.model) == 3


def test_make_editor_leaves_what_it_is_given(
    easyeditor: Any, tiny_llama: Any, tiny_tokenizer: Any, hparams: NSEHyperParams
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.padding_side = "right"
    given = dataclasses.asdict(hparams)
    editor = make_editor(tiny_llama, tokenizer, hparams)
    assert dataclasses.asdict(hparams) == given
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
    assert editor.model is tiny_llama
    assert (editor.tok.padding_side, editor.tok.pad_token) == ("left", "<|endoftext|>")
    assert editor.model_name == editor.hparams.model_name == "LlamaForCausalLM"


def test_make_editor_keeps_a_pad_token_and_a_name(
    easyeditor: Any, tiny_llama: Any, tiny_tokenizer: Any, hparams: NSEHyperParams
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = "!"
    hparams.model_name = "t5-lover/my-llama"  # a folder's name may say anything
    editor = make_editor(tiny_llama, tokenizer, hparams)
    assert editor.tok.pad_token == "!"
    assert editor.hparams.model_name == "t5-lover/my-llama"
    assert editor.model_name == "LlamaForCausalLM", "t5 would mean an encoder-decoder"


def test_a_tokenizer_without_pad_and_eos(
    easyeditor: Any, tiny_llama: Any, tiny_tokenizer: Any, hparams: NSEHyperParams
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a pad nor an eos token"):
        make_editor(tiny_llama, tokenizer, hparams)


def test_single_edits_measure_locality(
    tiny_llama: Any, editor_of: Use, hparams: NSEHyperParams, capitals: Use, protected: Use
) -> None:
    hparams.batch_size = 1
    metrics, _, _ = editor_of(tiny_llama).edit(
        **capitals("France", "Peru"),
        rephrase_prompts=["France's capital is", "Peru's capital is"],
        locality_inputs={"neighborhood": {"prompt": ["The capital of Japan is"] * 2, "ground_truth": ["Tokyo"] * 2}},
        sequential_edit=True,
    )
    for metric in metrics:
        assert {"rewrite_acc", "rephrase_acc"} <= metric["post"].keys()
        assert 0 <= metric["post"]["locality"]["neighborhood_acc"][0] <= 1
    assert protected(tiny_llama) == 2
