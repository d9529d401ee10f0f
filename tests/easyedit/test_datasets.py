"""EasyEdit's data sets give the subjects in their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nse_plugin.easyedit import apply_nse_to_model
from nse_plugin.hparams import NSEHyperParams

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

Use = Callable[..., Any]


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
