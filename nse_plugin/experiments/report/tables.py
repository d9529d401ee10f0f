"""A comparison's numbers in the layout of the NSE paper (arXiv 2410.04045, table 1), with their intervals, and paired
tests of the methods against each other over the facts."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nse_plugin.evaluation.intervals import LEVEL, SCORE, Comparison, Interval, compare_facts
from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import COLUMNS, EDITS, Column
from nse_plugin.experiments.report.results import at_last_checkpoint, in_order


def paper_table(summary: pd.DataFrame, columns: Sequence[Column] = COLUMNS) -> pd.DataFrame:
    """Return one row per method at its last checkpoint, on the papers' scale.

    summary: columns method, edits, metric, value, as in summary.csv. The table has the number of edits, and each of
    `columns` that any method has a value for, by its title: percentages, Fluency and Consistency times 100, seconds of
    editing divided by the number of edits, MiB.
    """
    last = at_last_checkpoint(summary)
    wide = last.pivot_table(index="method", columns="metric", values="value", aggfunc="last")
    edits = last.groupby("method")["edits"].max().reindex(wide.index)
    if "seconds" in wide:
        wide["seconds_per_fact"] = wide["seconds"] / edits.where(edits > 0)
    table = pd.DataFrame({EDITS: edits})
    for column in columns:
        if column.metric in wide:
            table[column.title] = wide[column.metric] * column.scale
    return table.loc[in_order(summary["method"])]


def intervals(summary: pd.DataFrame, columns: Sequence[Column]) -> dict[tuple[str, str], Interval]:
    """Return the intervals of `columns` at each method's last checkpoint, on the table's scale, by method and title.
    Values without an interval are left out. summary: with the columns low and high."""
    last = at_last_checkpoint(summary)
    shown = {column.metric: column for column in columns}
    rows = zip(last["method"], last["metric"], last["low"], last["high"], strict=True)
    return {
        (method, shown[metric].title): Interval(low * shown[metric].scale, high * shown[metric].scale)
        for method, metric, low, high in rows
        if metric in shown and not np.isnan(low)
    }


class FactTests:
    """Paired tests of the methods of a comparison, on the facts that both wrote, at their last checkpoints.

    facts: as in facts.csv. columns: the metrics to test; `score` is tested too if its three metrics are among them.
    """

    def __init__(self, facts: pd.DataFrame, columns: Sequence[Column] = COLUMNS) -> None:
        self._metrics = [name for name in dict.fromkeys(column.metric for column in columns) if name in facts]
        last = at_last_checkpoint(facts).set_index("case_id")
        self._facts = {str(method): own[self._metrics] for method, own in last.groupby("method")}
        self._compared = functools.cache(self._compare)

    def of(self, metric: str, method: str, other: str) -> Comparison | None:
        """Test `method` against `other` in one metric. Returns None if the metric is not measured per fact."""
        return self.between(method, other).get(metric) if metric in (*self._metrics, SCORE) else None

    def between(self, method: str, other: str) -> dict[str, Comparison]:
        """Test `method` against `other` in every metric that is measured per fact."""
        return self._compared(method, other)

    def _compare(self, method: str, other: str) -> dict[str, Comparison]:
        ours, theirs = self._facts.get(method, pd.DataFrame()), self._facts.get(other, pd.DataFrame())
        both = ours.index.intersection(theirs.index)
        return compare_facts(ours.loc[both], theirs.loc[both])


def best_values(
    table: pd.DataFrame,
    columns: Sequence[Column] = COLUMNS,
    tests: FactTests | None = None,
    around: Mapping[tuple[str, str], Interval] | None = None,
) -> pd.DataFrame:
    """Mark the best values of a `paper_table` with booleans, among the methods with all edits. Nothing is marked in a
    column with fewer than two values to compare.

    Marked are the best value, every tie at the precision shown, and every value that is not significantly worse: for a
    metric measured per fact, if the paired test against the best has p of 5% or more; for another metric with
    intervals, such as general ability, if its interval overlaps that of the best.
    tests: None for no tests. around: intervals, as `intervals` returns them; None for none.
    """
    best = pd.DataFrame(False, index=table.index, columns=table.columns)
    compared = table[(table.index != BEFORE) & (table[EDITS] == table[EDITS].max())]
    for column in columns:
        if column.title in table and compared[column.title].count() > 1:
            chosen = _best(compared[column.title].dropna(), column, tests, around or {})
            best.loc[chosen, column.title] = True
    return best


def _best(
    values: pd.Series[float], column: Column, tests: FactTests | None, around: Mapping[tuple[str, str], Interval]
) -> list[str]:
    """Return the methods whose value is marked. values: the column's value of each method compared."""
    shown = values.round(column.decimals)
    top = shown.min() if column.lower_is_better else shown.max()
    best = str(values.idxmin() if column.lower_is_better else values.idxmax())

    def is_as_good(method: str) -> bool:
        if tests and (test := tests.of(column.metric, method, best)):
            return not test.p < 1 - LEVEL
        one, other = (around.get((name, column.title)) for name in (method, best))
        return one is not None and other is not None and one.low <= other.high and other.low <= one.high

    return [str(name) for name, value in shown.items() if value == top or is_as_good(str(name))]
