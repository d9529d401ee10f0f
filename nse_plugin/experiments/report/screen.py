"""Print a comparison's table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nse_plugin.experiments.report.columns import ABSENT, COLUMNS, OURS, Column
from nse_plugin.experiments.report.results import Results
from nse_plugin.experiments.report.rows import Row, chat_table, rows_of, title_of, ungrouped
from nse_plugin.support.suggestions import number_of

_NO_LIMIT = 10_000  # characters


def show_table(console: Console, folder: Path) -> None:
    """Print the report's table, with the `best_values` in green, and a second table if questions were asked in a chat.
    Below them, print why a method has no row, and the notes on methods.

    The printed columns usually fit into a terminal of 80 characters; the report has all columns. In a narrower terminal
    the table is wider than the terminal, and no number is truncated.

    Raises ResultsError as `write_report` does.
    """
    results = Results.read(folder)
    rows = rows_of(results, COLUMNS)
    _print_table(console, title_of(results), COLUMNS, rows)
    if chat := chat_table(results):
        columns = ungrouped(chat["columns"])
        _print_table(console, "Asked in plain text and in a chat", columns, chat["rows"])
    for name, remark in [(row.method, row.absence) for row in rows if row.absence] + list(results.notes.items()):
        console.print(Text(f"{name}: {remark}"), soft_wrap=True)


def _print_table(console: Console, title: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    shown = [row for row in rows if row.absence is None]
    used = {
        column.title: column.short
        for column in columns
        if column.short and any(row.cells[column.title].text != ABSENT for row in shown)
    }
    table = Table(title=title, title_style="bold")
    table.add_column("")
    for short in used.values():
        table.add_column(short, justify="right", no_wrap=True)
    for row in shown:
        cells = [Text(row.cells[title].text, "bold green" if row.cells[title].best else "") for title in used]
        name = row.method if row.edits is None else f"{row.method}, {number_of(row.edits, 'edit')}"
        table.add_row(Text(name, "bold" if row.method == OURS else ""), *cells)
    narrowest, widest = Measurement.get(console, console.options.update(max_width=_NO_LIMIT), table)
    table.width = max(narrowest, min(widest, console.width)) if console.is_terminal else widest
    console.print(table, crop=False)
