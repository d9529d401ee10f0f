"""EasyEdit's own editor with NSE in it: loading, the ways to edit, what comes back."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nse_plugin.easyedit import apply_nse_to_model, make_editor, register
from nse_plugin.hparams import NSEHyperParams

Use = Callable[..., Any]


def test_the_easyedit_at_hand(easyeditor: Any, on_main: bool) -> None:
    if not on_main:
        pytest.skip("these tests ran on the wheel: set EASYEDIT_HOME to a clone to run them on EasyEdit main")
    assert Path(os.environ["EASYEDIT_HOME"]).resolve() in Path(easyeditor.__file__).resolve().parents


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


def test_a_name_that_easyedit_does_not_know(easyeditor: Any, hparams: NSEHyperParams) -> None:
    hparams.model_name = "folder/smollm2"
    with pytest.raises(NotImplementedError, match=r"smollm2.*make_editor"):
        easyeditor.BaseEditor.from_hparams(hparams)


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


COUNTRIES = {"Peru": ("Lima", "Arica"), "Italy": ("Rome", "Milan"), "France": ("Paris", "Lyon")}
COUNTERFACT = [
    {
        "case_id": 7 + 2 * number,
        "prompt": f"The capital of {country} is",
        "target_new": target,
        "subject": country,
        "ground_truth": truth,
        "rephrase_prompt": f"{country} is governed from",
        "locality_prompt": "The capital of Japan is",
        "locality_ground_truth": "Tokyo",
    }
    for number, (country, (truth, target)) in enumerate(COUNTRIES.items())
]
ZSRE = [
    {
        "subject": country,
        "src": f"What is the capital of {country}?",
        "pred": target,
        "rephrase": f"Which city governs {country}?",
        "alt": target,
        "answers": [truth],
        "loc": "nq question: where is Japan",
        "loc_ans": "in Asia",
    }
    for country, (truth, target) in COUNTRIES.items()
]
ZSRE.insert(1, {**ZSRE[0], "alt": ""})  # EasyEdit leaves such a record out, and numbers the others as before


@pytest.mark.parametrize(("dataset", "records"), [("CounterFactDataset", COUNTERFACT), ("ZsreDataset", ZSRE)])
def test_easyedits_datasets_and_evaluator(
    dataset: str,
    records: list[dict[str, Any]],
    easyeditor: Any,
    on_main: bool,
    tiny_llama: Any,
    editor_of: Use,
    hparams: NSEHyperParams,
    tmp_path: Path,
    protected: Use,
) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    facts = getattr(easyeditor, dataset)(str(file))
    assert [fact["subject"] for fact in facts] == list(COUNTRIES)

    if on_main:  # main has no edit_dataset; its edit_requests takes the same records, one at a time
        hparams.batch_size = 1
        metrics, _, _ = editor_of(tiny_llama).edit_requests(list(facts), sequential_edit=True)
    else:
        metrics, _, _ = editor_of(tiny_llama).edit_dataset(facts, sequential_edit=True)
        assert [metric["case_id"] for metric in metrics] == [fact["case_id"] for fact in facts]
    assert len(metrics) == len(facts)
    for metric in metrics:
        assert {"rewrite_acc", "rephrase_acc"} <= metric["post"].keys()
    assert protected(tiny_llama) == len(facts)


def test_a_zsre_file_without_subjects(
    easyeditor: Any,
    new_llama: Callable[[], Any],
    tiny_tokenizer: Any,
    hparams: NSEHyperParams,
    edited: Use,
    tmp_path: Path,
) -> None:
    file = tmp_path / "facts.json"
    found, given = new_llama(), new_llama()
    for model, dropped in ((found, "subject"), (given, "pred")):
        records = [{key: value for key, value in record.items() if key != dropped} for record in ZSRE]
        file.write_text(json.dumps(records), encoding="utf-8")
        facts = list(easyeditor.ZsreDataset(str(file)))
        assert all(("subject" in fact) == (dropped != "subject") for fact in facts)
        apply_nse_to_model(model, tiny_tokenizer, facts, hparams)
    expected = edited(given)
    assert all(torch.equal(weight, expected[name]) for name, weight in edited(found).items())
