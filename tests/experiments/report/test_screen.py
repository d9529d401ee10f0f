"""The table in the terminal."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from fabricated import ERROR, FAILED, METHODS, NOTE, results_folder
from report_pages import changed
from rich.console import Console

from nse_plugin.experiments.report.columns import COLUMNS
from nse_plugin.experiments.report.results import Results
from nse_plugin.experiments.report.screen import show_table
from nse_plugin.experiments.report.tables import paper_table


def test_the_table_on_screen(finished) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        show_table(console, finished[0])
    shown = capture.get()
    assert "Eff." in shown
    assert "Con." not in shown  # nobody measured it
    assert "…" not in shown  # all of it fits
    for method in METHODS:
        assert method in shown
    assert f"{FAILED}: failed: {ERROR}" in shown
    assert NOTE in shown


@pytest.mark.parametrize(("terminal", "width"), [(False, 40), (True, 40), (True, 80)])
def test_no_number_of_the_table_on_screen_is_cut(tmp_path, terminal, width) -> None:
    folder = results_folder(tmp_path / "run")
    consistency = pd.DataFrame({"method": METHODS[:-1], "edits": 20, "metric": "consistency", "value": 0.3141})
    changed(folder, "summary", lambda f: pd.concat([f, consistency]))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, no_color=True)
    show_table(console, folder)
    (row,) = (line for line in console.file.getvalue().splitlines() if "ROME" in line)
    wanted = Results.read(folder)
    table = paper_table(wanted.measured(wanted.summary)).loc["ROME"]
    shown = [column.shown(table[column.title]) for column in COLUMNS if column.short and column.title in table]
    assert len(shown) == 8
    assert all(number in row for number in shown), row
