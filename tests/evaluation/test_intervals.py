"""Intervals have the promised coverage, also if all facts are right, and the tests find real differences."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nse_plugin.evaluation import intervals as module
from nse_plugin.evaluation.intervals import SCORE, compare_facts, metric_intervals, normal_interval, wilson
from nse_plugin.evaluation.metrics.probability import METRICS

GENERATOR = np.random.default_rng(0)


def facts_of(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


def three(value: float, count: int) -> pd.DataFrame:
    return pd.DataFrame({metric: [value] * count for metric in METRICS})


# -- one model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (6, 6, 0.60966, 1.0), (5, 10, 0.23659, 0.76341),
     (1, 1, 0.20654, 1.0), (250, 1000, 0.22415, 0.27776)],
)  # fmt: skip
def test_a_share_of_facts_has_wilsons_interval(hits, n, low, high):
    assert wilson(hits / n, n) == pytest.approx((low, high), abs=1e-5)
    values = [1.0] * hits + [0.0] * (n - hits)
    found = metric_intervals(facts_of(efficacy=values, generalization=[*values[1:], math.nan]))
    assert found["efficacy"] == wilson(hits / n, n)
    if n > 1:
        assert found["generalization"] == wilson(sum(values[1:]) / (n - 1), n - 1)  # NaN is no fact


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 10, 300])
def test_facts_that_are_alike_have_an_interval_that_narrows_with_their_number(value, count):
    for interval in metric_intervals(three(value, count)).values():
        assert 0 <= interval.low <= value + 1e-9
        assert value - 1e-9 <= interval.high <= 1
        assert 1 / (2 * count) < interval.high - interval.low < 8 / count


@pytest.mark.parametrize("prompts", [2, 10])
@pytest.mark.parametrize(("mean", "alike"), [(0.97, 0.5), (0.97, 50.0), (0.7, 2.0), (0.05, 5.0)])
def test_a_mean_of_shares_is_within_its_interval_as_often_as_it_says(mean, alike, prompts):
    """alike: the larger, the less the facts differ. A percentile bootstrap holds 0.97 half as often."""
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        share = generator.beta(mean * alike, (1 - mean) * alike, 20)
        low, high = metric_intervals(facts_of(generalization=generator.binomial(prompts, share) / prompts))[
            "generalization"
        ]
        held += low <= mean <= high
    assert held >= 93


def test_of_two_values_at_the_ends_it_is_clopper_and_pearsons():
    values = [1.0] * 27 + [-1.0] * 3
    low, high = metric_intervals(facts_of(efficacy_magnitude=values))["efficacy_magnitude"]
    exact = stats.binomtest(27, 30).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((2 * exact.low - 1, 2 * exact.high - 1), abs=0.02)


def test_many_facts_have_nearly_the_normal_interval():
    values = GENERATOR.binomial(5, 0.6, 2000) / 5
    low, high = metric_intervals(facts_of(specificity=values))["specificity"]
    half = 1.96 * values.std() / math.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)


def test_the_score_has_an_interval_too():
    right = metric_intervals(three(1.0, 10))
    assert right[SCORE] == pytest.approx((0.70, 1.0), abs=0.02)
    mixed = three(1.0, 100).assign(specificity=0.5)
    low, high = metric_intervals(mixed)[SCORE]
    assert low < 3 / (1 + 1 + 2) < high
    assert metric_intervals(three(0.0, 10))[SCORE].low == 0.0
    assert SCORE not in metric_intervals(mixed.assign(generalization=math.nan))
    assert SCORE not in metric_intervals(mixed.drop(columns="generalization"))


def test_what_has_no_ends_has_students_interval():
    values = GENERATOR.normal(6.0, 0.3, 20)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert metric_intervals(facts_of(fluency=[*values, math.nan]))["fluency"] == pytest.approx(tuple(expected))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "columns",
    [
        {"fluency": [6.1] * 20}, {"fluency": [6.1]}, {"locality_shift": [0.1, math.inf, 0.3]},
        {"efficacy": [math.nan, math.nan]}, {"fluency": [math.nan]}, {"efficacy": []},
    ],
)  # fmt: skip
def test_where_nothing_can_be_said_there_is_none(columns):
    [interval] = metric_intervals(facts_of(**columns)).values()
    assert np.isnan(interval).all()


def test_a_number_with_a_standard_error():
    assert normal_interval(0.5, 0.1) == pytest.approx((0.304004, 0.695996), abs=1e-5)
    assert np.isnan(normal_interval(0.5, 0.0)).all()
    assert np.isnan(normal_interval(0.5, math.nan)).all()


def test_draws_in_blocks_are_the_same(monkeypatch):
    facts = facts_of(generalization=GENERATOR.random(50))
    whole = metric_intervals(facts)
    monkeypatch.setattr(module, "_AT_A_TIME", 51 * 300)
    assert metric_intervals(facts) == whole


# -- two models --------------------------------------------------------------------------------------------------


def pair(
    better: int, worse: int, count: int, right: float = 1.0, wrong: float = 0.0
) -> tuple[list[float], list[float]]:
    """Values of two models: on so many facts the first is better, on so many worse."""
    rest = [right] * (count - better - worse)
    return [right] * better + [wrong] * worse + rest, [wrong] * better + [right] * worse + rest


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(6, 0, 2 * 0.5**6), (5, 0, 0.0625), (0, 5, 0.0625), (8, 2, 0.109375), (3, 3, 1), (0, 0, 1)],
)
def test_yes_and_no_are_compared_by_mcnemars_exact_test(better, worse, p):
    ours, theirs = pair(better, worse, 100)
    test = compare_facts(facts_of(efficacy=ours), facts_of(efficacy=theirs))["efficacy"]
    assert (test.facts, test.better, test.worse) == (100, better, worse)
    assert test.difference == pytest.approx((better - worse) / 100)
    assert test.p == pytest.approx(p)
    assert (test.low > 0 or test.high < 0) == (p < 0.05)
    assert test.low <= test.difference <= test.high or better + worse == 0


@pytest.mark.parametrize(("better", "worse"), [(6, 0), (5, 0), (0, 7), (9, 2), (3, 3), (0, 0)])
def test_the_randomisation_test_agrees_with_it(better, worse):
    ours, theirs = pair(better, worse, 60, 1.0, 0.5)
    test = compare_facts(facts_of(generalization=ours), facts_of(generalization=theirs))["generalization"]
    exact = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert test.p == pytest.approx(exact, abs=0.02)


def test_the_randomisation_test_is_scipys():
    ours, theirs = GENERATOR.integers(0, 5, 15) / 4, GENERATOR.integers(1, 6, 15) / 5
    test = compare_facts(facts_of(specificity=ours), facts_of(specificity=theirs))["specificity"]
    exact = stats.permutation_test(
        (ours, theirs), lambda one, other, axis: np.mean(one - other, axis=axis), permutation_type="samples"
    )
    assert test.p == pytest.approx(exact.pvalue, abs=0.02)


def test_a_few_facts_of_many_are_not_enough_for_a_difference():
    """A bootstrap of the difference is sure of it: hardly a resample has none of the four."""
    ours, theirs = pair(4, 0, 200, 1.0, 0.5)
    test = compare_facts(facts_of(generalization=ours), facts_of(generalization=theirs))["generalization"]
    assert test.p > 0.05
    assert test.low <= 0 < test.high


def test_facts_that_never_differ_say_nothing_of_how_far_apart_models_are():
    for other in (1.0, 0.5):
        test = compare_facts(three(1.0, 10), three(other, 10))["generalization"]
        assert np.isnan([test.low, test.high]).all()
    few = compare_facts(facts_of(generalization=[1.0, 0.5, 1.0]), facts_of(generalization=[0.5, 0.5, 0.0]))
    assert few["generalization"].low == -1.0  # three facts cannot tell
    assert few["generalization"].high == 1.0
    score = compare_facts(three(1.0, 3), three(1.0, 3).assign(specificity=[0.5, 1.0, 1.0]))[SCORE]
    assert (score.low, score.high) == (-1.0, 1.0)


def test_a_half_without_a_metric_says_nothing_of_the_score():
    ours, theirs = (three(1.0, 40).assign(generalization=[1.0, *[math.nan] * 39]) for _ in range(2))
    theirs["efficacy"] = [1.0, 0.0] * 20
    score = compare_facts(ours, theirs)[SCORE]
    assert (score.low, score.high) == (-1.0, 1.0)  # half of the halves have no generalization
    assert score.p < 0.01


@pytest.mark.parametrize("seed", range(8))
def test_the_interval_of_a_difference_leaves_out_0_where_the_test_does(seed):
    generator = np.random.default_rng(seed)
    share = generator.beta(4, 2, (40, 1))
    ours = pd.DataFrame(generator.binomial(4, np.minimum(1.1 * share, 1), (40, 3)) / 4, columns=METRICS)
    theirs = pd.DataFrame(generator.binomial(4, share, (40, 3)) / 4, columns=METRICS)
    for test in compare_facts(ours, theirs).values():
        assert test.low <= test.difference <= test.high
        if abs(test.p - 0.05) > 0.01:
            assert (test.low > 0 or test.high < 0) == (test.p < 0.05)


def test_models_that_are_alike_are_seldom_called_different():
    generator = np.random.default_rng(2)
    called = {"generalization": 0, SCORE: 0}
    for _ in range(80):
        share = generator.beta(8, 2, (50, 1))
        ours, theirs = (pd.DataFrame(generator.binomial(4, share, (50, 3)) / 4, columns=METRICS) for _ in range(2))
        for metric, test in compare_facts(ours, theirs).items():
            if metric in called:
                called[metric] += test.p < 0.05
    assert 1 <= min(called.values()) <= max(called.values()) <= 8


def test_a_difference_that_is_there_is_found():
    generator = np.random.default_rng(3)
    good, bad = (pd.DataFrame(generator.binomial(4, share, (50, 3)) / 4, columns=METRICS) for share in (0.9, 0.7))
    for test in compare_facts(good, bad).values():
        assert test.p < 0.01
        assert 0 < test.low < test.difference < test.high


def test_the_other_way_round_it_is_the_same_test():
    ours, theirs = (pd.DataFrame(GENERATOR.random((30, 3)), columns=METRICS) for _ in range(2))
    there, back = compare_facts(ours, theirs), compare_facts(theirs, ours)
    for metric in (*METRICS, SCORE):
        one, other = there[metric], back[metric]
        assert (other.difference, other.low, other.high) == pytest.approx((-one.difference, -one.high, -one.low))
        assert other.p == one.p
    assert (there["efficacy"].better, there["efficacy"].worse) == (back["efficacy"].worse, back["efficacy"].better)


def test_only_facts_that_both_have_are_compared():
    ours = facts_of(efficacy=[1.0, 1.0, math.nan], fluency=[math.nan, 6.0, 6.0])
    theirs = facts_of(efficacy=[0.0, math.nan, 1.0], fluency=[6.0, math.nan, math.nan], more=[1.0, 1.0, 1.0])
    found = compare_facts(ours, theirs)
    assert list(found) == ["efficacy"]
    assert (found["efficacy"].facts, found["efficacy"].difference) == (1, 1.0)
    assert compare_facts(facts_of(), facts_of()) == {}


@pytest.mark.filterwarnings("error")
def test_fluency_is_compared_by_the_paired_t_test():
    ours, theirs = GENERATOR.normal(6.0, 0.3, 20), GENERATOR.normal(5.8, 0.3, 20)
    test = compare_facts(facts_of(fluency=ours), facts_of(fluency=theirs))["fluency"]
    assert test.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert compare_facts(facts_of(fluency=ours), facts_of(fluency=ours))["fluency"].p == 1.0
    assert compare_facts(facts_of(fluency=ours), facts_of(fluency=ours - 0.1))["fluency"].p == 0.0
    assert math.isnan(compare_facts(facts_of(fluency=[6.0]), facts_of(fluency=[5.0]))["fluency"].p)


def test_models_measured_on_other_facts_are_not_compared():
    with pytest.raises(ValueError, match="3 facts cannot be compared with 2"):
        compare_facts(three(1.0, 3), three(1.0, 2))
