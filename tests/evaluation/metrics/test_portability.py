from __future__ import annotations

import math
from typing import Any

import pytest
from next_word import NextWord

from nse_plugin.evaluation.metrics import portability
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.facts import Fact


def scores(model: Any, tokenizer: Any, fact: Fact) -> dict[str, float]:
    return portability.scores(fact, predict(model, tokenizer, portability.pairs(fact)))


def test_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())  # P(Paris | is) = 1/2, P(Los | is) = 1/4, P(Angeles | Los) = 1/16
    fact = Fact(
        "The capital of {} is", "Italy", "Los Angeles",
        portability_prompts=(("a city in Italy is", "Paris"), ("Italy is", "Los Angeles")),
        reversal_prompts=(("Los Angeles is", "Los Angeles"),),
    )  # fmt: skip
    two_words = math.sqrt(1 / 4 * 1 / 16)
    assert scores(model, tokenizer, fact) == pytest.approx({
        "portability_accuracy": (1 + 1 / 2) / 2,
        "portability_probability": (1 / 2 + two_words) / 2,
        "reversal_accuracy": 1 / 2,
        "reversal_probability": two_words,
    })  # fmt: skip
    assert tuple(scores(model, tokenizer, fact)) == portability.METRICS


def test_a_fact_without_such_prompts_has_none(tokenizer: Any) -> None:
    fact = Fact("{} is", "Peru", "Paris", rephrase_prompts=("Lima is",), locality_prompts=(("Italy is", "Rome"),))
    assert portability.pairs(fact) == []
    found = portability.scores(fact, {})
    assert tuple(found) == portability.METRICS
    assert all(math.isnan(value) for value in found.values())
