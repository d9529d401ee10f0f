"""Uncertainty of metrics: 95% intervals, and tests that compare two models on the same facts.

The unit of observation is a fact: its prompts share a subject and a target, so ten prompts of one fact are not ten
observations.

Intervals:
- A share of facts (Efficacy: a single 0 or 1 per fact) has Wilson's score interval (Wilson 1927).
- The mean of a share per fact (Generalization: two prompts per fact) has the interval of Gaffke (2005; Learned-Miller
  and Thomas 2019, arXiv 1905.06208): the facts are weighted at random, as in the Bayesian bootstrap (Rubin 1981),
  together with one additional fact that is entirely wrong (for the low end) or entirely right (for the high end).
  Without this fact, the bootstrap interval has zero width if all facts have the same value, which is common for editing
  methods. For zeros and ones, Gaffke's interval is that of Clopper and Pearson.
- The score, the harmonic mean of three such means, has the same kind of interval, with an additional fact that is
  wrong, or right, in all three metrics.
- Metrics treated as unbounded (Fluency, Consistency, differences in nats) have Student's t interval.
- Perplexity, time and memory are one number per model and have no interval.

Tests, paired by fact:
- McNemar's exact test if every fact is either right or wrong: the binomial test on the facts where two models differ.
- Otherwise the randomisation test (Fisher 1935), of which McNemar's is the case of zeros and ones: if the models were
  equivalent, their values for a fact could be exchanged, so they are swapped at random, independently for each fact.
- The interval of the difference corresponds to this test: it is taken from the differences on random halves of the
  facts (Hartigan 1969, typical values). It excludes 0 if p is below 5%. There is no interval if the difference is the
  same for all facts.
- The paired t-test and its interval for unbounded metrics.

Needs scipy, which the extra `experiments` installs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from nse_plugin.evaluation.metrics.probability import METRICS, mean_scores
from nse_plugin.support.suggestions import number_of

try:
    from scipy import stats
except ImportError as error:
    raise ImportError("Intervals and tests need scipy: pip install 'nse-plugin[experiments]'.") from error

LEVEL = 0.95
RESAMPLES = 4000
SCORE = "score"
ENDS = (-1, 1)  # low, high
SHARE = (0.0, 1.0)
# Smallest and largest value of the metrics that are not shares; None if treated as unbounded.
_RANGES: dict[str, tuple[float, float] | None] = {
    **{f"{metric}_magnitude": (-1.0, 1.0) for metric in METRICS},
    **dict.fromkeys(("fluency", "consistency", "locality_shift")),
}
ROUNDING = 1e-9
_AT_A_TIME = 1 << 22  # random weights in memory at a time


class Interval(NamedTuple):
    low: float
    high: float


NONE = Interval(math.nan, math.nan)


class Comparison(NamedTuple):
    """Comparison of two models on the same facts, for one metric.

    facts: the number of facts compared. better, worse: the number of facts for which the first model's value is larger,
    or smaller (NaN for the score). difference: first minus second, with its 95% interval from low to high. p:
    two-sided.
    """

    facts: int
    better: float
    worse: float
    difference: float
    low: float
    high: float
    p: float


def wilson(share: float, n: int) -> Interval:
    """Return Wilson's interval for a share of n facts or questions; `NONE` if the share is NaN."""
    if math.isnan(share):
        return NONE
    low, high = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return Interval(float(low), float(high))


def normal_interval(value: float, stderr: float) -> Interval:
    """Return the normal interval for a value with a standard error; `NONE` if the error is 0 or NaN."""
    if not stderr > 0:
        return NONE
    low, high = stats.norm.interval(LEVEL, value, stderr)
    return Interval(float(low), float(high))


def metric_intervals(facts: pd.DataFrame) -> dict[str, Interval]:
    """Return the interval of the mean of each column, and of `score` if its three metrics are present.

    facts: one row per fact, one column per metric; NaN if a fact has no such prompts. An interval is `NONE` if no fact
    has a value and, for an unbounded metric, if only one fact has one, all values are equal, or one is not finite.
    """
    facts = facts.astype(float)
    shares = facts[_shares(facts)].dropna(axis="columns", how="all")
    low, high = (_random_means(shares, end) for end in ENDS)
    found = {}
    for metric in facts:
        values = facts[metric].dropna()
        if metric not in shares:
            found[str(metric)], _ = _student(values)
        elif values.isin(SHARE).all():
            found[str(metric)] = wilson(values.mean(), len(values))
        else:
            found[str(metric)] = _interval(low[metric], high[metric])
    if {*METRICS} <= {*shares}:
        found[SCORE] = _interval(_scores(low), _scores(high))
    return found


def compare_facts(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Comparison]:
    """Compare two models on each metric that both frames contain, and on `score`.

    ours, theirs: as for `metric_intervals`, with the same facts in the same order. A metric is compared on the facts
    for which both models have a value, and omitted if there are none.
    Raises ValueError if the frames differ in length.
    """
    if len(ours) != len(theirs):
        raise ValueError(
            f"{number_of(len(ours), 'fact')} cannot be compared with {len(theirs)}: give the same facts of both models."
        )
    metrics = [metric for metric in ours if metric in theirs]
    ours, theirs = (frame[metrics].astype(float).reset_index(drop=True) for frame in (ours, theirs))
    both = ours.notna() & theirs.notna()
    ours, theirs = (frame.where(both).dropna(axis="columns", how="all") for frame in (ours, theirs))

    shares = _shares(ours)
    draws = _PairedDraws(ours[shares], theirs[shares])
    found = {}
    for metric in ours:
        one, other = ours[metric].dropna(), theirs[metric].dropna()
        difference = float((one - other).mean())
        if metric in shares:
            lowest, highest = _RANGES.get(str(metric)) or SHARE
            interval, p = draws.test(operator.itemgetter(metric), difference, highest - lowest)
            p = p if (exact := _mcnemar(one, other)) is None else exact
        else:
            interval, p = _student(one - other)
        counts = len(one), float((one > other).sum()), float((one < other).sum())
        found[str(metric)] = Comparison(*counts, difference, *interval, p)
    if {*METRICS} <= {*shares}:
        difference = mean_scores(ours)[SCORE] - mean_scores(theirs)[SCORE]
        interval, p = draws.test(_scores, difference, widest=1.0)
        facts = int(both[list(METRICS)].any(axis="columns").sum())
        found[SCORE] = Comparison(facts, math.nan, math.nan, difference, *interval, p)
    return found


def _shares(facts: pd.DataFrame) -> list[str]:
    """Return the names of the bounded metrics."""
    return [str(metric) for metric in facts if _RANGES.get(str(metric), SHARE) is not None]


def _random_means(shares: pd.DataFrame, end: int) -> pd.DataFrame:
    """Return the mean of each column under random weights, over the facts and one additional fact that is entirely
    wrong (end -1) or entirely right (end 1); one row for each of `RESAMPLES` draws. NaN is skipped. The weights depend
    only on the number of facts."""
    extreme = [(_RANGES.get(str(metric)) or SHARE)[end > 0] for metric in shares]
    rows = np.vstack([shares.to_numpy(), np.reshape(extreme, (1, -1))])
    generator = np.random.default_rng(0)  # exponential weights divided by their sum are uniform on the simplex
    draws = (generator.standard_exponential((count, len(rows))) for count in _blocks(len(shares)))
    return _means(pd.DataFrame(rows, columns=shares.columns), draws)


def _means(facts: pd.DataFrame, draws: Iterable[npt.NDArray[np.float64]]) -> pd.DataFrame:
    """Return the mean of each column under the weights [draws, facts]. NaN is skipped; NaN if nothing is left."""
    there, filled = facts.notna().to_numpy(float), facts.fillna(0.0).to_numpy()
    with np.errstate(invalid="ignore"):
        means = [(weights @ filled) / (weights @ there) for weights in draws]
    return pd.DataFrame(np.concatenate(means), columns=facts.columns)


def _scores(means: pd.DataFrame) -> pd.Series[float]:
    """Return the score of each draw; 0 if one of its three metrics is 0."""
    return 3 / (1 / means[list(METRICS)]).sum(axis="columns", skipna=False)


def _interval(low: pd.Series[float], high: pd.Series[float]) -> Interval:
    """Return the interval from the lower quantile of `low` to the upper quantile of `high`, draws of a statistic."""
    return Interval(float(low.quantile((1 - LEVEL) / 2)), float(high.quantile((1 + LEVEL) / 2)))


class _PairedDraws:
    """Column means of two models on `RESAMPLES` draws of two kinds: with the models swapped at random for each fact,
    and on a random half of the facts. ours, theirs: one row per fact, NaN in the same places."""

    def __init__(self, ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
        middle, half = ((ours + theirs) / 2).mean(), (ours - theirs) / 2
        sums = np.concatenate([weights @ half.fillna(0.0).to_numpy() for weights in _halves(len(half))])
        moved = (2 * pd.DataFrame(sums, columns=half.columns) - half.sum()) / half.count()
        self._swapped = middle + moved, middle - moved
        self._halved = _means(ours, _halves(len(ours))), _means(theirs, _halves(len(theirs)))

    def test(
        self, statistic: Callable[[pd.DataFrame], pd.Series[float]], difference: float, widest: float
    ) -> tuple[Interval, float]:
        """Return the interval and two-sided p of the difference, within [-widest, widest], of a statistic."""
        swapped, halved = (statistic(ours) - statistic(theirs) for ours, theirs in (self._swapped, self._halved))
        beyond = int((swapped.abs() >= abs(difference) - ROUNDING).sum())
        alike = halved.max() - halved.min() < ROUNDING
        # A half without facts carries no information: the difference may have any value.
        interval = NONE if alike else _interval(halved.fillna(-widest), halved.fillna(widest))
        return interval, (beyond + 1) / (RESAMPLES + 1)


def _halves(facts: int) -> Iterator[npt.NDArray[np.float64]]:
    """Yield blocks of weights 0 and 1, [draws, facts], which depend only on the number of facts."""
    generator = np.random.default_rng(0)
    for count in _blocks(facts):
        yield generator.integers(2, size=(count, facts)).astype(float)


def _mcnemar(ours: pd.Series[float], theirs: pd.Series[float]) -> float | None:
    """Return p of McNemar's exact test; None if a value is neither 0 nor 1."""
    if not (ours.isin(SHARE).all() and theirs.isin(SHARE).all()):
        return None
    better, differ = int((ours > theirs).sum()), int((ours != theirs).sum())
    return float(stats.binomtest(better, differ).pvalue) if differ else 1.0


def _blocks(facts: int) -> list[int]:
    """Split `RESAMPLES` into blocks whose random numbers fit into memory."""
    block = max(1, _AT_A_TIME // (facts + 1))
    return [min(block, RESAMPLES - first) for first in range(0, RESAMPLES, block)]


def _student(values: pd.Series[float]) -> tuple[Interval, float]:
    """Return the t interval of the mean, and p of the t-test for a mean of 0. The interval is `NONE` if there are fewer
    than two values, or if the values are equal within rounding or not finite."""
    if not values.any():
        return NONE, 1.0
    if len(values) < 2 or not np.isfinite(values).all():
        return NONE, math.nan
    if np.allclose(values, values.iloc[0]):
        return NONE, 0.0
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return Interval(float(low), float(high)), float(test.pvalue)
