"""Metrics of several facts about one subject, on made-up predictions (first token and log-probability of a target)."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from nse_plugin.evaluation.metrics.subjects import METRICS, pairs, replaced, scores
from nse_plugin.evaluation.suite import measure
from nse_plugin.evaluation.teacher_forcing import Prediction
from nse_plugin.facts import Fact

BORN, LIVES, WORKS = "{} was born in", "{} lives in", "The work of {} is"
NAN = math.nan
# fact, its round, whether its first token is said, log-probability, the two metrics
TABLE = [
    (Fact(BORN, "Ada", "Rome"), 1, True, -1.0, NAN, NAN),  # replaced by row 5
    (Fact(LIVES, "Ada", "Lima"), 1, False, -2.0, 0.0, NAN),  # row 3 is of a later round
    (Fact(BORN, "Bob", "Rome"), 1, True, -1.0, NAN, NAN),  # alone
    (Fact(WORKS, "Ada ", "chess"), 2, True, -1.0, 1.0, NAN),  # rows 5 and 6 correct another fact
    (Fact(WORKS, "Ida", "law", aliases=("Ada",)), 2, True, -1.0, 1.0, NAN),  # row 6 is of its other name
    (Fact(BORN, "Ada", "Oslo"), 2, True, -0.5, NAN, NAN),  # replaced by row 6
    (Fact(BORN, "Ada", "Cairo"), 3, False, -0.7, NAN, 0.0),  # behind Oslo, ahead of Rome
    (Fact(LIVES, "Ida", "Bonn"), 2, False, -3.0, NAN, NAN),  # row 4 is of the same round
    (Fact(WORKS, "Eve", "art"), 1, True, -1.0, NAN, NAN),  # the same again, and replaced by nothing
    (Fact(WORKS, "Eve", "art"), 2, True, -1.0, NAN, NAN),
    (Fact(BORN, "Bob ", "Rome"), 3, True, -1.0, NAN, NAN),
]  # fmt: skip
FACTS, ROUNDS = [row[0] for row in TABLE], [row[1] for row in TABLE]


def test_each_fact_has_what_it_is_asked_for() -> None:
    predictions = {
        pairs(fact)[0]: Prediction(log_probability, (1, 2), (1 if said else 0, 0))
        for fact, _, said, log_probability, *_ in TABLE
    }
    expected = pd.DataFrame([row[4:] for row in TABLE], columns=list(METRICS))
    pd.testing.assert_frame_equal(scores(FACTS, ROUNDS, predictions), expected)
    assert scores(FACTS, None, predictions).isna().all(axis=None)


def test_a_fact_is_replaced_once_the_later_one_is_written() -> None:
    assert [place for place, gone in enumerate(replaced(FACTS)) if gone] == [0, 5]
    assert not any(replaced(FACTS[:5]))
    back = [Fact(BORN, "Ada", target) for target in ("Rome", "Oslo", "Rome")]
    assert replaced(back) == [False, True, False]


def test_a_replaced_fact_counts_in_no_metric_from_then_on(model, tokenizer) -> None:
    facts = [
        Fact("{} is in", "Lima", "Italy", "Peru", ("we saw Lima in",)),
        Fact("The capital of {} is", "France", "Rome", "Paris"),
        Fact("{} is in", "Lima", "France", "Peru"),
    ]
    families = ["probability", "accuracy", "fluency"]
    plain = measure(model, tokenizer, facts, families)
    assert plain.replaced.tolist() == [False] * 3
    first = measure(model, tokenizer, facts, families, rounds=[1, 1])
    assert first.replaced.tolist() == [False] * 2
    pd.testing.assert_frame_equal(first.facts, plain.facts[:2])
    last = measure(model, tokenizer, facts, ["subjects", *families], rounds=[1, 1, 2])
    assert last.replaced.tolist() == [True, False, False]
    assert last.facts.loc[0].isna().all()
    pd.testing.assert_frame_equal(last.facts.loc[1:, list(plain.facts)], plain.facts[1:])
    assert last.overall["rewrite_accuracy"] == pytest.approx(plain.facts["rewrite_accuracy"][1:].mean())
    assert last.overall["correction_ahead"] in (0.0, 1.0)
