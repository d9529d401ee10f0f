"""Keeps the ratios of every run in `trend.csv`, so that a commit that made something slower is noticed."""

from __future__ import annotations

import csv
import datetime
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparisons.row import Row

TREND = Path(__file__).with_name("trend.csv")
AGAINST = ("stand-in", "one by one")  # peers that are available on every machine
SLOWER = 1.15
COLUMNS = ("commit", "when", "case", "stage", "facts", "relation", "ratio")
_NAMES = ("case", "stage", "facts", "relation")


def record(rows: Sequence[Row], path: Path = TREND) -> list[str]:
    """Add this run's ratios to the file, and return a sentence for each that is worse than in earlier runs."""
    earlier = _earlier(path)
    commit, when = commit_here(), now()
    said = []
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if not file.tell():
            writer.writerow(COLUMNS)
        for row in rows:
            if row.ratio is None or row.peer not in AGAINST:
                continue
            named = tuple("" if value is None else str(value) for value in (getattr(row, name) for name in _NAMES))
            writer.writerow([commit, when, *named, f"{row.ratio:.2f}"])
            before = statistics.median(earlier[named]) if named in earlier else row.ratio
            if row.ratio * SLOWER < before:
                said.append(
                    f"Slower than before: {row.case}, {row.stage}, {row.facts} facts, relation {row.relation}: "
                    f"{row.ratio:.1f} times the peers' speed, where the median of earlier runs is {before:.1f}."
                )
    return said


def _earlier(path: Path) -> dict[tuple[str, ...], list[float]]:
    """Read the ratios of earlier runs, by case, stage, facts and relation."""
    found: dict[tuple[str, ...], list[float]] = {}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                found.setdefault(tuple(line[name] for name in _NAMES), []).append(float(line["ratio"]))
    return found


def commit_here() -> str:
    """Return the checkout's commit, with a + if tracked files have changed since, or "unknown" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(TREND.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/trend.csv")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
