from __future__ import annotations

import math
from typing import Any

import pytest
from next_word import NextWord

from nse_plugin.evaluation.metrics import accuracy
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.facts import Fact


def scores(model: Any, tokenizer: Any, fact: Fact) -> dict[str, float]:
    return accuracy.scores(fact, predict(model, tokenizer, accuracy.pairs(fact)))


def test_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())  # after "is": Paris; after "Los": Angeles
    fact = Fact(
        "The capital of {} is", "Italy", target_new="Los Angeles",  # only its second token is right
        rephrase_prompts=("Italy is", "we saw Los"),  # "Los" after "Los" is wrong as well
        locality_prompts=(("France is", "Paris"), ("Peru is", "Los Angeles"), ("Peru is", "Rome")),
    )  # fmt: skip
    assert scores(model, tokenizer, fact) == {
        "rewrite_accuracy": 1 / 2,
        "rephrase_accuracy": 1 / 2,
        "locality_accuracy": pytest.approx((1 + 1 / 2 + 0) / 3),
    }


def test_a_fact_without_such_prompts_has_none(tokenizer: Any) -> None:
    found = scores(NextWord(tokenizer.get_vocab()), tokenizer, Fact("{} is", "Peru", "Paris"))
    assert found["rewrite_accuracy"] == 1.0
    assert math.isnan(found["rephrase_accuracy"])
    assert math.isnan(found["locality_accuracy"])
