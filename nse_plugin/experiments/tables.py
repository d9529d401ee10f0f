"""A comparison's numbers as a table in the layout of the NSE paper (arXiv 2410.04045, table 1), with their intervals,
and the methods tested against each other fact by fact."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nse_plugin.evaluation.intervals import LEVEL, SCORE, Comparison, Interval, compare_facts, metric_intervals
from nse_plugin.experiments.plan import BEFORE

OURS = "NSE"  # stands last, as in the paper
EDITS = "Edits"
ABSENT, TO, MINUS = "\N{EN DASH}", "\N{EN DASH}", "\N{MINUS SIGN}"
_KEYS = ["method", "edits", "metric"]
_NEEDED = {
    "summary.csv": ["method", "edits", "metric", "value"],
    "facts.csv": ["method", "edits", "case_id", "prompt", "target_true", "target_new"],
    "texts.csv": ["method", "edits", "case_id", "prompt", "text"],
}
_MORE = {
    "states": ["method", "edits", "x", "y"],
    "weights": ["method", "edits", "name", "layer", "relative_norm", "rank", "stable_rank"],
}
# Of metrics whose interval is Student's: their smallest and largest value. Questions answered are shares.
_ENDS = {"fluency": (0.0, np.inf), "consistency": (0.0, 1.0), "locality_shift": (0.0, np.inf)}
_NEEDED_OF_RUN = ("config", "versions", "host", "data", "model", "started", "seconds", "methods")


class ResultsError(ValueError):
    """A folder that is not the result of a comparison; the message names the file and the remedy."""


@dataclass(frozen=True)
class Column:
    """How a metric of summary.csv stands in the table: value * scale, with so many decimals. short: its title on a
    screen; None: it has no place there."""

    metric: str
    title: str
    scale: float = 1.0
    decimals: int = 2
    lower_is_better: bool = False
    short: str | None = None

    def shown(self, value: float) -> str:
        """A value of the table as text; a dash where there is none."""
        if pd.isna(value):
            return ABSENT
        if np.isinf(value):
            return "∞"
        if abs(value) >= 1e6:
            return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
        return f"{value:,.{self.decimals}f}".replace("-", MINUS)


AS_IN_THE_PAPER = (
    Column("efficacy", "Efficacy", 100, short="Eff."),
    Column("generalization", "Generalization", 100, short="Gen."),
    Column("specificity", "Specificity", 100, short="Spe."),
    Column("fluency", "Fluency", 100, short="Flu."),
    Column("consistency", "Consistency", 100, short="Con."),
)
BESIDE_IT = (
    Column("score", "Score", 100, short="Score"),
    Column("rewrite_accuracy", "Accuracy", 100),
    Column("locality_agreement", "Locality", 100),
    Column("perplexity", "Perplexity", lower_is_better=True, short="PPL"),
)
SUBJECTS = (
    Column("retention_same_subject", "Same subject", 100, short="Subj."),
    Column("correction_ahead", "Corrected", 100, short="Corr."),
)
COST = (
    Column("seconds_per_fact", "Seconds a fact", lower_is_better=True, short="s/fact"),
    Column("peak_memory_mib", "Memory (MiB)", decimals=0, lower_is_better=True),
)
COLUMNS = (*AS_IN_THE_PAPER, *BESIDE_IT, *SUBJECTS, *COST)
THREE_SCORES = AS_IN_THE_PAPER[:3]
TESTED = (*THREE_SCORES, BESIDE_IT[0], *SUBJECTS)  # against NSE, in a table of its own
# The same facts asked in plain text and in a chat.
ASKED_PLAINLY = (
    Column("efficacy", "Efficacy", 100, short="Eff."),
    Column("rewrite_accuracy", "Accuracy", 100, short="Acc."),
)
ASKED_IN_CHAT = (
    Column("chat_states_new", "States new", 100, short="New"),
    Column("chat_names_old", "Names old", 100, lower_is_better=True, short="Old"),
    Column("chat_first_token", "First token", 100, short="First"),
    Column("chat_efficacy", "Efficacy, begun", 100, short="Eff., begun"),
    Column("chat_accuracy", "Accuracy, begun", 100, short="Acc., begun"),
)
# What the model is asked without a target beside it, and how far it is from the unedited one.
SAYS = (
    Column("efficacy", "Efficacy", 100),
    Column("generation_contains", "Says it", 100),
    Column("generation_exact", "Exactly", 100),
    Column("rephrase_contains", "Rephrased", 100),
    Column("generation_judged", "Judge", 100),
)
FOLLOWS = (
    Column("portability_accuracy", "Portability", 100),
    Column("reversal_accuracy", "Reversal", 100),
)
DRIFTS = (
    Column("perplexity", "Perplexity", lower_is_better=True),
    Column("next_token_kl", "KL (nats)", decimals=3, lower_is_better=True),
    Column("hidden_cosine", "Hidden cosine", decimals=3),
    Column("hidden_covariance_shift", "Covariance", decimals=3, lower_is_better=True),
    Column("weight_change", "Weights", 100, lower_is_better=True),
    Column("weight_rank", "Rank", decimals=0, lower_is_better=True),
)


@dataclass(frozen=True)
class Results:
    """What `nse compare` left in a folder: summary.csv, facts.csv, texts.csv (maybe without rows) and run.json.

    summary: method, edits, metric, value, and its interval low to high. facts: a row per method, checkpoint and fact.
    texts: method, edits, case_id, prompt, text. run: configuration, versions, host, and how each method ended. case_id
    is a string throughout.
    tables: of the instruments, by file, those that are there.
    """

    summary: pd.DataFrame
    facts: pd.DataFrame
    texts: pd.DataFrame
    run: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Raises ResultsError when a file or a column is missing, or a file cannot be read."""
        summary, facts, texts = (_frame(folder, name, needed) for name, needed in _NEEDED.items())
        summary = clipped(summary) if "low" in summary else with_intervals(summary, facts)  # of an earlier version
        try:
            run = json.loads(_present(folder, "run.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ResultsError(f"{folder / 'run.json'} is not JSON ({error}): run the comparison again.") from None
        missing = [name for name in _NEEDED_OF_RUN if name not in run]
        if missing:
            raise ResultsError(f"{folder / 'run.json'} has no {missing[0]!r}: run the comparison again.")
        tables = {
            name: _frame(folder, f"{name}.csv", needed)
            for name, needed in _MORE.items()
            if (folder / f"{name}.csv").is_file()
        }
        return cls(summary, facts, texts.fillna({"text": ""}), run, tables)

    @property
    def notes(self) -> dict[str, str]:
        """What there is to know about a method's numbers, e.g. that it is broken here."""
        return {name: ended["note"] for name, ended in self.run["methods"].items() if ended.get("note")}

    @property
    def methods(self) -> list[str]:
        """Every method that was asked for or measured, the unedited model first and NSE last."""
        return in_order([*self.run["methods"], *self.summary["method"]])

    def absence(self, method: str) -> str | None:
        """Why a method has no row of numbers; None when it has one."""
        ended = self.run["methods"].get(method, {})
        if ended.get("status") == "failed":
            return f"failed: {ended.get('error') or 'no reason was given'}"
        return None if method in set(self.summary["method"]) else "not measured yet"

    def measured(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of one of the frames that belong to methods without an `absence`."""
        return frame[frame["method"].isin([name for name in self.methods if self.absence(name) is None])]


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ResultsError(f"{folder} has no {name}: give the folder of a comparison, which `nse compare` calls `out`.")
    return folder / name


def _frame(folder: Path, name: str, needed: list[str]) -> pd.DataFrame:
    path = _present(folder, name)
    try:  # texts and answers such as "NA" or "None" stay what they are
        frame = pd.read_csv(path, dtype={"method": str, "case_id": str}, keep_default_na=False, na_values=[""])
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ResultsError(f"{path} is not a table ({error}): run the comparison again.") from None
    missing = [column for column in needed if column not in frame]
    if missing:
        raise ResultsError(f"{path} has no column {missing[0]!r}: run the comparison again.")
    if frame.empty and name == "summary.csv":
        raise ResultsError(f"{path} has no rows: nothing has been measured yet.")
    return frame


def in_order(methods: Iterable[str]) -> list[str]:
    """Each name once: the unedited model, the baselines as they came, NSE."""
    names = list(dict.fromkeys(methods))
    return sorted(names, key=lambda name: (name != BEFORE) + (name == OURS))


def at_last_checkpoint(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of summary.csv, facts.csv or texts.csv that belong to each method's last checkpoint."""
    return frame[frame["edits"] == frame.groupby("method")["edits"].transform("max")]


def with_intervals(summary: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """summary (method, edits, metric, value) with the columns low and high, the 95% interval; NaN where there is none.

    facts: as in facts.csv, which the intervals are made of (`nse_plugin.evaluation.intervals`). Metrics that come with
    their interval, as `ability_mmlu_low` and `ability_mmlu_high` beside `ability_mmlu`, become one row.
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
    """A frame with the columns metric, low and high, without the part of an interval where the metric has no values."""
    metrics = summary["metric"].astype(str)
    ends = [_ENDS.get(name, (0.0, 1.0) if name.startswith("ability_") else (-np.inf, np.inf)) for name in metrics]
    lowest, highest = np.reshape(ends, (-1, 2)).T
    return summary.assign(low=summary["low"].clip(lowest, highest), high=summary["high"].clip(lowest, highest))


def ability_columns(summary: pd.DataFrame) -> tuple[Column, ...]:
    """Of every file of questions and task that is a share: right answers and, of questions, those the unedited model
    gave too."""
    metrics = list(dict.fromkeys(summary["metric"].astype(str)))
    found: list[Column] = []
    for metric in metrics:
        if metric.startswith("ability_") and not metric.endswith("_kept"):
            title = metric.removeprefix("ability_").replace("_", " ")
            found.append(Column(metric, title, 100))
            if f"{metric}_kept" in metrics:
                found.append(Column(f"{metric}_kept", f"{title}, kept", 100))
    return tuple(found)


def paper_table(summary: pd.DataFrame, columns: Sequence[Column] = COLUMNS) -> pd.DataFrame:
    """A row per method at its last checkpoint, on the papers' scale; a column where any method has a value.

    summary: columns method, edits, metric, value, as in summary.csv. Returns the edits and the titles of `columns`:
    percentages, Fluency and Consistency times 100, seconds of editing divided by the number of edits, MiB.
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
    """Those of the columns at each method's last checkpoint, on the table's scale, by method and title; what has none
    is left out. summary: with low and high."""
    last = at_last_checkpoint(summary)
    shown = {column.metric: column for column in columns}
    rows = zip(last["method"], last["metric"], last["low"], last["high"], strict=True)
    return {
        (method, shown[metric].title): Interval(low * shown[metric].scale, high * shown[metric].scale)
        for method, metric, low, high in rows
        if metric in shown and not np.isnan(low)
    }


class FactTests:
    """The methods of a comparison, tested in pairs on the facts that both wrote, at their last checkpoints.

    facts: as in facts.csv. columns: which metrics of them; `score` is tested where its three are there.
    """

    def __init__(self, facts: pd.DataFrame, columns: Sequence[Column] = COLUMNS) -> None:
        self._metrics = [name for name in dict.fromkeys(column.metric for column in columns) if name in facts]
        last = at_last_checkpoint(facts).set_index("case_id")
        self._facts = {str(method): own[self._metrics] for method, own in last.groupby("method")}
        self._compared = functools.cache(self._compare)

    def of(self, metric: str, method: str, other: str) -> Comparison | None:
        """`method` against `other`; None where the metric is not one of facts."""
        return self.between(method, other).get(metric) if metric in (*self._metrics, SCORE) else None

    def between(self, method: str, other: str) -> dict[str, Comparison]:
        """`method` against `other` in every metric of facts."""
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
    """Where the best values of a `paper_table` are, as booleans, among methods with all edits; nowhere when there are
    fewer than two to compare.

    Marked are the best, every tie at the precision shown, and what is not worse beyond the noise: of a metric of facts,
    every method that the paired test does not find worse than the best (p of 5% or more); of another one that has
    intervals, as general ability, every method whose interval overlaps that of the best.
    tests, around (as of `intervals`): None: of none.
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
    """values: of each method that is compared."""
    shown = values.round(column.decimals)
    top = shown.min() if column.lower_is_better else shown.max()
    best = str(values.idxmin() if column.lower_is_better else values.idxmax())

    def is_as_good(method: str) -> bool:
        if tests and (test := tests.of(column.metric, method, best)):
            return not test.p < 1 - LEVEL
        one, other = (around.get((name, column.title)) for name in (method, best))
        return one is not None and other is not None and one.low <= other.high and other.low <= one.high

    return [str(name) for name, value in shown.items() if value == top or is_as_good(str(name))]
