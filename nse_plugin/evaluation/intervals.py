"""How far a number may be off: 95% intervals of metrics, and tests of two models on the same facts.

A fact is the unit: its prompts share a subject and a target, so ten prompts of one fact are not ten observations.

Intervals:
- A share of facts (Efficacy: one 0 or 1 a fact) has Wilson's score interval (Wilson 1927).
- The mean of a share a fact (Generalization: two prompts a fact) has the interval of Gaffke (2005; Learned-Miller and
  Thomas 2019, arXiv 1905.06208): the facts are weighted at random, as in the Bayesian bootstrap (Rubin 1981), together
  with one more fact that is wrong throughout (for the low end) or right throughout (for the high end). A bootstrap
  without that fact has no width where all facts are alike, which is where editing methods live. Of zeros and ones it
  is the interval of Clopper and Pearson.
- The score, the harmonic mean of three such means, has the same interval, with a fact that is wrong, or right, in all
  three.
- What has no natural ends (Fluency, Consistency, differences in nats) has Student's t interval.
- Perplexity, time and memory are one number a model, and have none.

Tests, paired by fact:
- McNemar's exact test where a fact is right or wrong: the binomial test of the facts on which two models differ.
- Otherwise the randomisation test (Fisher 1935), which is the same test of zeros and ones: were the models alike, what
  each made of a fact could as well be the other's, so the two are swapped at random, fact by fact.
- The difference's interval is that test's own: the values that the difference takes on random halves of the facts
  (Hartigan 1969, typical values). It leaves out 0 where p is below 5%; facts that all differ alike have none.
- The paired t-test and its interval for what has no natural ends.

Needs scipy, which the extra `experiments` brings.
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
# Metrics of facts that are not shares: their smallest and largest value, or None.
_RANGES: dict[str, tuple[float, float] | None] = {
    **{f"{metric}_magnitude": (-1.0, 1.0) for metric in METRICS},
    **dict.fromkeys(("fluency", "consistency", "locality_shift")),
}
ROUNDING = 1e-9
_AT_A_TIME = 1 << 22  # random weights held at a time, to bound memory


class Interval(NamedTuple):
    low: float
    high: float


NONE = Interval(math.nan, math.nan)


class Comparison(NamedTuple):
    """One model against another on the same facts.

    facts: how many were compared. better, worse: on how many the first model has the larger, the smaller value (NaN
    for a score). difference: first minus second, with its 95% interval low to high. p: two-sided.
    """

    facts: int
    better: float
    worse: float
    difference: float
    low: float
    high: float
    p: float


def wilson(share: float, n: int) -> Interval:
    """Wilson's interval of a share of n facts or questions; none where the share is NaN."""
    if math.isnan(share):
        return NONE
    low, high = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return Interval(float(low), float(high))


def normal_interval(value: float, stderr: float) -> Interval:
    """Of a number with a standard error: the normal interval; none where the error is 0 or not known."""
    if not stderr > 0:
        return NONE
    low, high = stats.norm.interval(LEVEL, value, stderr)
    return Interval(float(low), float(high))


def metric_intervals(facts: pd.DataFrame) -> dict[str, Interval]:
    """The interval of the mean of each column, and of `score` where the three it is made of are there.

    facts: a row a fact, a column a metric; NaN where a fact has no such prompts. NaN where there is no interval: of no
    fact, and of one or of equal facts for a metric without natural ends.
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
    """Each metric that both frames have, and `score`, of one model against another.

    ours, theirs: as for `metric_intervals`, of the same facts in the same order. A fact is left out of a metric's
    comparison where either has no value, and a metric where no fact is left.
    Raises ValueError when the frames differ in length.
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
    """The metrics with natural ends."""
    return [str(metric) for metric in facts if _RANGES.get(str(metric), SHARE) is not None]


def _random_means(shares: pd.DataFrame, end: int) -> pd.DataFrame:
    """The mean of each column under random weights, the same for as many facts: of the facts, and of one more that is
    wrong (end -1) or right (1) throughout. NaN is left out. A row for each of `RESAMPLES` draws."""
    extreme = [(_RANGES.get(str(metric)) or SHARE)[end > 0] for metric in shares]
    rows = np.vstack([shares.to_numpy(), np.reshape(extreme, (1, -1))])
    generator = np.random.default_rng(0)  # exponential weights over their sum are uniform on the simplex
    draws = (generator.standard_exponential((count, len(rows))) for count in _blocks(len(shares)))
    return _means(pd.DataFrame(rows, columns=shares.columns), draws)


def _means(facts: pd.DataFrame, draws: Iterable[npt.NDArray[np.float64]]) -> pd.DataFrame:
    """The mean of each column under the weights [draws, facts]; NaN is left out, and given where nothing is left."""
    there, filled = facts.notna().to_numpy(float), facts.fillna(0.0).to_numpy()
    with np.errstate(invalid="ignore"):
        means = [(weights @ filled) / (weights @ there) for weights in draws]
    return pd.DataFrame(np.concatenate(means), columns=facts.columns)


def _scores(means: pd.DataFrame) -> pd.Series[float]:
    """The score of each draw; 0 where one of its three is."""
    return 3 / (1 / means[list(METRICS)]).sum(axis="columns", skipna=False)


def _interval(low: pd.Series[float], high: pd.Series[float]) -> Interval:
    """From draws of what may be too low, and of what may be too high."""
    return Interval(float(low.quantile((1 - LEVEL) / 2)), float(high.quantile((1 + LEVEL) / 2)))


class _PairedDraws:
    """The means of two models, by column, on `RESAMPLES` draws: the models swapped at random, fact by fact, and both on
    a random half of the facts. ours, theirs: NaN in the same places."""

    def __init__(self, ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
        middle, half = ((ours + theirs) / 2).mean(), (ours - theirs) / 2
        sums = np.concatenate([weights @ half.fillna(0.0).to_numpy() for weights in _halves(len(half))])
        moved = (2 * pd.DataFrame(sums, columns=half.columns) - half.sum()) / half.count()
        self._swapped = middle + moved, middle - moved
        self._halved = _means(ours, _halves(len(ours))), _means(theirs, _halves(len(theirs)))

    def test(
        self, statistic: Callable[[pd.DataFrame], pd.Series[float]], difference: float, widest: float
    ) -> tuple[Interval, float]:
        """The interval and two-sided p of the difference of a statistic, which lies within `widest` of 0."""
        swapped, halved = (statistic(ours) - statistic(theirs) for ours, theirs in (self._swapped, self._halved))
        beyond = int((swapped.abs() >= abs(difference) - ROUNDING).sum())
        alike = halved.max() - halved.min() < ROUNDING
        # A half without facts carries no information: the difference may be anything.
        interval = NONE if alike else _interval(halved.fillna(-widest), halved.fillna(widest))
        return interval, (beyond + 1) / (RESAMPLES + 1)


def _halves(facts: int) -> Iterator[npt.NDArray[np.float64]]:
    """Weights [draws, facts] of 0 and 1, the same ones for as many facts."""
    generator = np.random.default_rng(0)
    for count in _blocks(facts):
        yield generator.integers(2, size=(count, facts)).astype(float)


def _mcnemar(ours: pd.Series[float], theirs: pd.Series[float]) -> float | None:
    """None where a fact may be partly right."""
    if not (ours.isin(SHARE).all() and theirs.isin(SHARE).all()):
        return None
    better, differ = int((ours > theirs).sum()), int((ours != theirs).sum())
    return float(stats.binomtest(better, differ).pvalue) if differ else 1.0


def _blocks(facts: int) -> list[int]:
    """`RESAMPLES` in parts whose random numbers fit into memory."""
    block = max(1, _AT_A_TIME // (facts + 1))
    return [min(block, RESAMPLES - first) for first in range(0, RESAMPLES, block)]


def _student(values: pd.Series[float]) -> tuple[Interval, float]:
    """The t interval of the mean, and p of its being 0. No interval of a single value, of values that are alike but for
    rounding, or not finite."""
    if not values.any():
        return NONE, 1.0
    if len(values) < 2 or not np.isfinite(values).all():
        return NONE, math.nan
    if np.allclose(values, values.iloc[0]):
        return NONE, 0.0
    test = stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return Interval(float(low), float(high)), float(test.pvalue)
