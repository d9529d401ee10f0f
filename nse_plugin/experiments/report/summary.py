"""Add 95% intervals to the rows of a summary."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nse_plugin.evaluation.intervals import Interval, metric_intervals

_KEYS = ["method", "edits", "metric"]
# Smallest and largest value of metrics with Student's interval. Metrics of ability are shares, from 0 to 1.
_ENDS = {"fluency": (0.0, np.inf), "consistency": (0.0, 1.0), "locality_shift": (0.0, np.inf)}


def with_intervals(summary: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Add the columns low and high, the 95% interval, to a summary; NaN if a metric has no interval.

    summary: columns method, edits, metric, value. facts: as in facts.csv; the intervals are computed from them
    (`nse_plugin.evaluation.intervals`). Metrics that bring their own interval, e.g. `ability_mmlu_low` and
    `ability_mmlu_high` for `ability_mmlu`, become one row.
    """
    metrics = set(summary["metric"])
    made = {
        (method, edits, metric): interval
        for (method, edits), own in facts.groupby(["method", "edits"])
        for metric, interval in metric_intervals(own[[name for name in own if name in metrics]]).items()
    }
    rows = pd.MultiIndex.from_frame(summary[_KEYS])
    values = dict(zip(rows, summary["value"], strict=True))
    table = summary.copy()
    for end, name in enumerate(Interval._fields):
        own = [values.get((*row[:2], f"{row[2]}_{name}"), np.nan) for row in rows]
        table[name] = [made[row][end] if row in made else given for row, given in zip(rows, own, strict=True)]
    ends = {f"{metric}_{name}" for metric in metrics for name in Interval._fields}
    return clipped(table[~table["metric"].isin(ends)].reset_index(drop=True))


def clipped(summary: pd.DataFrame) -> pd.DataFrame:
    """Clip intervals to the range of their metric. summary: a frame with the columns metric, low and high."""
    metrics = summary["metric"].astype(str)
    ends = [_ENDS.get(name, (0.0, 1.0) if name.startswith("ability_") else (-np.inf, np.inf)) for name in metrics]
    lowest, highest = np.reshape(ends, (-1, 2)).T
    return summary.assign(low=summary["low"].clip(lowest, highest), high=summary["high"].clip(lowest, highest))
