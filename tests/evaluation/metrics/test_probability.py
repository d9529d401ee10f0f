from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from next_word import NextWord

from nse_plugin.evaluation.metrics.probability import harmonic_mean, mean_scores, score_facts
from nse_plugin.facts import Fact, FactError


def test_scores_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())  # after "is": Paris, then Los, then all others alike
    won = Fact(
        "The capital of {} is", "Italy", target_new="Paris", target_true="Rome", case_id="a",
        rephrase_prompts=("we saw Italy . Italy is", "we saw Los"),  # a tie does not win
        locality_prompts=(("France is", "Los"), ("France is", "Paris"), ("Peru is", "Rome")),  # Paris wins
    )  # fmt: skip
    lost = Fact(
        "The capital of {} is", "France", target_new="Rome", target_true="Paris", case_id="b",
        locality_prompts=(("Peru is", "Paris"), ("Peru is", "Los"), ("Peru is", "Lima"), ("Los", "Angeles")),
    )  # fmt: skip
    frame = score_facts(model, tokenizer, [won, lost])
    assert list(frame.columns)[:4] == ["case_id", "efficacy", "generalization", "specificity"]
    assert frame["case_id"].tolist() == ["a", "b"]
    assert frame.iloc[0, 1:4].tolist() == [1.0, 0.5, 0.0]
    assert frame["efficacy"].tolist() == [1.0, 0.0]
    assert math.isnan(frame["generalization"][1])
    # Paris and Los beat Rome after "is"; Lima ties with it; after "Los", Angeles (1/16) beats Rome
    assert frame["specificity"][1] == 3 / 4
    means = mean_scores(frame)
    assert (means["efficacy"], means["generalization"], means["specificity"]) == (0.5, 0.5, 0.375)
    assert means["score"] == pytest.approx(3 / (1 / 0.5 + 1 / 0.5 + 1 / 0.375))


def test_magnitudes_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())
    fact = Fact(
        "The capital of {} is", "Italy", target_new="Paris", target_true="Los Angeles",
        rephrase_prompts=("Italy is", "Peru in Los"),
        locality_prompts=(("France is", "Los"), ("Peru is", "Paris")),
    )  # fmt: skip
    [row] = score_facts(model, tokenizer, [fact]).to_dict("records")
    los_angeles = math.sqrt(1 / 4 * 1 / 16)  # the geometric mean over its two tokens
    assert row["efficacy_magnitude"] == pytest.approx(1 / 2 - los_angeles, abs=1e-6)
    spread = model.probability("Los", "Paris")
    after_los = spread - math.sqrt(model.probability("Los", "Los") * 1 / 16)
    assert row["generalization_magnitude"] == pytest.approx((1 / 2 - los_angeles + after_los) / 2, abs=1e-6)
    assert row["specificity_magnitude"] == pytest.approx((1 / 4 - 1 / 2 + 0) / 2, abs=1e-6)


def test_the_score_is_zero_when_one_of_the_three_is() -> None:
    assert harmonic_mean(1.0, 0.5, 0.25) == pytest.approx(3 / 7)
    assert harmonic_mean(1.0, 0.0, 1.0) == 0.0


def test_a_metric_that_no_fact_has_is_left_out() -> None:
    frame = pd.DataFrame({"case_id": [7, 8], "efficacy": [1.0, math.nan], "generalization": [math.nan] * 2})
    assert mean_scores(frame) == {"efficacy": 1.0}


def test_a_fact_without_a_true_target_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(FactError, match="fact 7: target_true is None"):
        score_facts(model, tokenizer, [Fact("{} is", "Peru", "Lima", case_id=7)])


def test_no_facts_are_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(FactError, match="facts is empty"):
        score_facts(model, tokenizer, [])
