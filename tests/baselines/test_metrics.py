from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nse_plugin.baselines.metrics import easyedit_reference, easyedit_scores
from nse_plugin.evaluation.metrics.locality import locality_reference
from nse_plugin.evaluation.suite import measure
from nse_plugin.facts import Fact

FACTS = [
    Fact(
        "The capital of {} is", "France", "Lyon, and in Peru", "Paris",
        ("Japan and France have", "people speak of France"),
        (("In Peru people speak", "Spanish"), ("The capital of the United States is", "Washington, and in Peru")),
        case_id=1,
    ),
    Fact("In {} people speak", "Peru", "Spanish and Italian", "Spanish", case_id=2),
    Fact(
        "The capital of {} is", "the United States", "Boston", "Washington", ("Peru is",),
        (("New Zealand is in", "Italy, and in Japan"),), case_id=3,
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tiny_llama_source: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """One that knows the sentences, in part, and the same after a few more steps on other targets."""
    before = copy.deepcopy(tiny_llama_source)
    known = [
        "The capital of the United States is Washington, and in Peru people speak Spanish.",
        "The capital of France is Lyon, and in Italy",
        "In Peru people speak Spanish and French",
    ]
    _train(before, tiny_tokenizer, known, steps=30)
    after = copy.deepcopy(before)
    _train(after, tiny_tokenizer, ["In Peru people speak Italian", "New Zealand is in Italy, and"], steps=6)
    return before, after


def _train(model: Any, tokenizer: Any, texts: list[str], steps: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def scores(easyeditor: Any, models: tuple[Any, Any], tiny_tokenizer: Any) -> pd.DataFrame:
    before, after = models
    reference = easyedit_reference(before, tiny_tokenizer, FACTS)
    return easyedit_scores(json.loads(json.dumps(reference)), after, tiny_tokenizer, FACTS)


def test_its_accuracy_is_the_teacher_forced_one(scores: pd.DataFrame, models: Any, tiny_tokenizer: Any) -> None:
    facts = [dataclasses.replace(fact, rephrase_prompts=fact.rephrase_prompts[:1]) for fact in FACTS]
    ours = measure(models[1], tiny_tokenizer, facts, ["accuracy"]).facts
    for name in ("rewrite", "rephrase"):
        np.testing.assert_allclose(scores[f"easyedit_{name}_acc"], ours[f"{name}_accuracy"], atol=1e-6)
    assert len(set(scores["easyedit_rewrite_acc"])) > 1
    assert scores["easyedit_rephrase_acc"].isna().tolist() == [False, True, False]


def test_its_locality_is_the_agreement_with_the_unedited_model(
    scores: pd.DataFrame, models: Any, tiny_tokenizer: Any
) -> None:
    reference = locality_reference(models[0], tiny_tokenizer, FACTS)
    ours = measure(models[1], tiny_tokenizer, FACTS, ["locality"], reference=reference).facts
    np.testing.assert_allclose(scores["easyedit_locality_acc"], ours["locality_agreement"], atol=1e-6)
    assert scores["easyedit_locality_acc"].dropna().between(0, 1, inclusive="neither").any()


def test_the_unedited_model_agrees_with_itself(easyeditor: Any, models: Any, tiny_tokenizer: Any) -> None:
    reference = easyedit_reference(models[0], tiny_tokenizer, FACTS)
    found = easyedit_scores(reference, models[0], tiny_tokenizer, FACTS)
    assert found["easyedit_locality_acc"].dropna().tolist() == [1.0, 1.0]


def test_your_tokenizer_and_model_stay_as_they_were(easyeditor: Any, models: Any, tiny_tokenizer: Any) -> None:
    tiny_tokenizer.padding_side = "right"
    weights = copy.deepcopy(models[0].state_dict())
    easyedit_reference(models[0], tiny_tokenizer, FACTS)
    assert tiny_tokenizer.pad_token is None
    assert tiny_tokenizer.padding_side == "right"
    assert all(torch.equal(weight, weights[name]) for name, weight in models[0].state_dict().items())


def test_a_reference_of_other_facts_is_refused(easyeditor: Any, models: Any, tiny_tokenizer: Any) -> None:
    reference = easyedit_reference(models[0], tiny_tokenizer, FACTS[:2])
    with pytest.raises(ValueError, match="The reference is not of these facts"):
        easyedit_scores(reference, models[0], tiny_tokenizer, FACTS)
