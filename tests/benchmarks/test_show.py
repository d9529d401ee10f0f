"""Tables, CSV and plot."""

from __future__ import annotations

import csv

from rich.console import Console

from benchmarks import breakdown, show
from benchmarks.comparisons.row import Row
from benchmarks.facts import RELATION_LENGTHS
from benchmarks.flat import Growth

ROWS = [
    Row("values", "z step", 10, 3, "stand-in", 0.2, 1.3, 3, 1e-6),
    Row("values", "prefix", 10, 3, "stand-in", 0.1, None, 3, None),
    Row("round", "whole", 20, 3, "authors", 2.0, 30.0, 1, 1e-7),
]
FLOORS = {("z step", 3): 7.4}


def shown(show_it, *arguments) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show_it(console, *arguments)
    return console.export_text()


def test_ratios_stand_beside_their_floors() -> None:
    text = shown(show.comparison, "values", ROWS, FLOORS)
    line = next(line for line in text.splitlines() if "z step" in line)
    assert "6.5" in line
    assert "7.4" in line


def test_files_hold_every_row(tmp_path) -> None:
    folder = show.keep(ROWS, FLOORS, "benchmark", tmp_path / "results")
    with (folder / "benchmark.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == show.COLUMNS
    assert [line["ratio"] for line in lines] == ["6.5", "", "15.0"]
    assert (folder / "benchmark.png").stat().st_size > 5000


def test_other_tables() -> None:
    assert "1.20" in shown(show.flat, Growth(200, 1.0, 1.2, 900.0, 905.0))
    assert "2300" in shown(show.memory, [{"side": "ours", "facts": 5, "loaded_mb": 900.0, "peak_mb": 2300.0}])
    assert "75%" in shown(show.shares, {"values": {"backward": 3.0, "rest": 1.0}})


def test_floors_of_a_setting(roomy) -> None:
    least = show.ratio_floors(roomy)
    assert set(least) == {(stage, n) for stage in ("z step", "z whole") for n in RELATION_LENGTHS}
    assert all(least["z step", n] > least["z whole", n] > 1 for n in RELATION_LENGTHS)
    assert "Llama3-8B" in shown(show.floors_of_models, roomy)


def test_shares_add_up(roomy, monkeypatch) -> None:
    found = breakdown.shares(roomy, 2)
    assert found["values"].keys() >= {breakdown.ONCE, breakdown.FORWARD, breakdown.BACKWARD, breakdown.HEAD}
    assert found["values"].keys() >= {breakdown.OPTIMISER, breakdown.REST}
    assert found["update"].keys() >= {breakdown.ONCE, breakdown.SOLVE, breakdown.REST}
    assert all(seconds >= 0 for parts in found.values() for seconds in parts.values())
