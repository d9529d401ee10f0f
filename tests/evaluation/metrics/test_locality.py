from __future__ import annotations

import json
import math
from typing import Any

import pytest
from next_word import BY_HAND, NextWord

from nse_plugin.evaluation.metrics.locality import from_json, locality_drift, locality_reference, to_json
from nse_plugin.facts import Fact

FACTS = [
    Fact("{} is", "Peru", "Rome", locality_prompts=(("France is", "Los Angeles"), ("a city", "Lima")), case_id=1),
    Fact("{} is", "Italy", "Rome", case_id=2),
    Fact("{} is", "France", "Rome", locality_prompts=(("we saw Los", "Angeles"),), case_id=3),
]


def test_drift_by_hand(tokenizer: Any) -> None:
    ids = tokenizer.get_vocab()
    reference = locality_reference(NextWord(ids), tokenizer, FACTS)
    edited = NextWord(ids, {**BY_HAND, "is": {"Paris": 1 / 8, "Los": 1 / 2}})
    frame = locality_drift(reference, edited, tokenizer, FACTS)
    assert frame["case_id"].tolist() == [1, 2, 3]
    # "Los Angeles": the first of two tokens is another one now, and twice as likely; the other answers are as before
    assert frame["locality_agreement"][0] == pytest.approx((1 / 2 + 1) / 2)
    assert frame["locality_shift"][0] == pytest.approx((math.log(2) / 2 + 0) / 2, abs=1e-6)
    assert math.isnan(frame["locality_agreement"][1])
    assert math.isnan(frame["locality_shift"][1])
    assert (frame["locality_agreement"][2], frame["locality_shift"][2]) == (1.0, 0.0)


def test_a_right_answer_that_turns_wrong_counts_no_more_than_a_wrong_one_that_turns_right(tokenizer: Any) -> None:
    ids = tokenizer.get_vocab()
    fact = Fact("{} is", "Peru", "Rome", locality_prompts=(("France is", "Los"),))
    edited = NextWord(ids, {"is": {"Paris": 1 / 4, "Los": 1 / 2}})
    for before, after in ((NextWord(ids), edited), (edited, NextWord(ids))):
        frame = locality_drift(locality_reference(before, tokenizer, [fact]), after, tokenizer, [fact])
        assert frame["locality_agreement"][0] == 0.0
        assert frame["locality_shift"][0] == pytest.approx(math.log(2), abs=1e-6)


def test_an_unedited_model_has_not_drifted_whatever_the_batch(model: Any, tokenizer: Any) -> None:
    reference = locality_reference(model, tokenizer, FACTS, tokens_per_batch=1)
    frame = locality_drift(reference, model, tokenizer, FACTS)
    assert frame["locality_agreement"].dropna().tolist() == [1.0, 1.0]
    assert frame["locality_shift"].dropna().tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_reference_survives_json(model: Any, tokenizer: Any) -> None:
    reference = locality_reference(model, tokenizer, FACTS)
    assert from_json(json.loads(json.dumps(to_json(reference)))) == reference


def test_a_reference_of_other_facts_or_of_another_tokenizer_is_refused(model: Any, tokenizer: Any) -> None:
    reference = locality_reference(model, tokenizer, FACTS[1:])
    with pytest.raises(ValueError, match="fact 1: the reference does not hold the locality prompt 'France is'"):
        locality_drift(reference, model, tokenizer, FACTS)
    entries = [{**entry, "target": [*entry["target"], 0]} for entry in to_json(reference)]
    with pytest.raises(ValueError, match="fact 3: the reference does not hold"):
        locality_drift(from_json(entries), model, tokenizer, FACTS[1:])
