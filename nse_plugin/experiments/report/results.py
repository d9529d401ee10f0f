"""Read the results that `nse compare` wrote to a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import OURS
from nse_plugin.experiments.report.summary import clipped, with_intervals

_NEEDED = {
    "summary.csv": ["method", "edits", "metric", "value"],
    "facts.csv": ["method", "edits", "case_id", "prompt", "target_true", "target_new"],
    "texts.csv": ["method", "edits", "case_id", "prompt", "text"],
}
_MORE = {
    "states": ["method", "edits", "x", "y"],
    "weights": ["method", "edits", "name", "layer", "relative_norm", "rank", "stable_rank"],
}
_NEEDED_OF_RUN = ("config", "versions", "host", "data", "model", "started", "seconds", "methods")


class ResultsError(ValueError):
    """A folder that is not the result of a comparison; the message names the file and the remedy."""


@dataclass(frozen=True)
class Results:
    """Results that `nse compare` wrote to a folder: summary.csv, facts.csv, texts.csv (possibly empty) and run.json.

    summary: columns method, edits, metric, value, and low and high of its interval. facts: one row per method,
    checkpoint and fact. texts: columns method, edits, case_id, prompt, text. case_id is a string in every frame. run:
    configuration, versions, host, and how each method ended. tables: the instruments' tables that exist, by file name.
    """

    summary: pd.DataFrame
    facts: pd.DataFrame
    texts: pd.DataFrame
    run: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read a folder. Raises ResultsError if a file or a column is missing, or a file cannot be read."""
        summary, facts, texts = (_frame(folder, name, needed) for name, needed in _NEEDED.items())
        summary = clipped(summary) if "low" in summary else with_intervals(summary, facts)  # an earlier version
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
        """Remarks on a method's numbers, e.g. that the method is broken here, by method."""
        return {name: ended["note"] for name, ended in self.run["methods"].items() if ended.get("note")}

    @property
    def methods(self) -> list[str]:
        """Every method that was planned or measured, with the unedited model first and NSE last."""
        return in_order([*self.run["methods"], *self.summary["method"]])

    def absence(self, method: str) -> str | None:
        """Return why a method has no row of numbers, or None if it has one."""
        ended = self.run["methods"].get(method, {})
        if ended.get("status") == "failed":
            return f"failed: {ended.get('error') or 'no reason was given'}"
        return None if method in set(self.summary["method"]) else "not measured yet"

    def measured(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of `frame` that belong to methods without an `absence`."""
        return frame[frame["method"].isin([name for name in self.methods if self.absence(name) is None])]


def _present(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise ResultsError(f"{folder} has no {name}: give the folder of a comparison, which `nse compare` calls `out`.")
    return folder / name


def _frame(folder: Path, name: str, needed: list[str]) -> pd.DataFrame:
    path = _present(folder, name)
    try:  # texts and answers such as "NA" or "None" are kept as strings
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
    """Return each name once: the unedited model first, then the baselines in the given order, then NSE."""
    names = list(dict.fromkeys(methods))
    return sorted(names, key=lambda name: (name != BEFORE) + (name == OURS))


def at_last_checkpoint(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of summary.csv, facts.csv or texts.csv that belong to each method's last checkpoint."""
    return frame[frame["edits"] == frame.groupby("method")["edits"].transform("max")]
