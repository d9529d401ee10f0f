"""A commit that is slower is reported."""

from __future__ import annotations

import csv

from benchmarks import trend
from benchmarks.comparisons.row import Row


def row(ratio: float, peer: str = "stand-in", stage: str = "z step") -> Row:
    return Row("values", stage, 10, 3, peer, 1.0, ratio, 3, 1e-6)


def test_what_is_slower_than_the_median_is_said(tmp_path) -> None:
    path = tmp_path / "trend.csv"
    for ratio in (6.0, 7.0, 50.0):
        assert trend.record([row(ratio)], path) == []
    assert trend.record([row(6.2)], path) == []  # within 15% of 7
    (said,) = trend.record([row(5.0), row(5.0, stage="keys")], path)
    assert said.startswith("Slower than before: values, z step, 10 facts, relation 3: 5.0 times")
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == trend.COLUMNS
    assert [line["ratio"] for line in lines] == ["6.00", "7.00", "50.00", "6.20", "5.00", "5.00"]
    assert all(line["commit"] and line["when"] for line in lines)


def test_only_peers_that_are_always_there_count(tmp_path) -> None:
    path = tmp_path / "trend.csv"
    rows = [row(8.0, peer="authors"), Row("values", "prefix", 1, 3, "stand-in", 0.1, None, 3, None)]
    trend.record(rows, path)
    with path.open() as file:
        assert list(csv.DictReader(file)) == []
