"""Output of the commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

WIDTH = 160  # columns of a table if there is no terminal


def print_table(rows: Iterable[Mapping[str, object]], columns: Mapping[str, str], title: str | None = None) -> None:
    """Print rows as a table. columns: the heading for each key of `rows`; a row may lack keys."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    rows = list(rows)
    for key, heading in columns.items():
        numeric = any(isinstance(row.get(key), int | float) and not isinstance(row.get(key), bool) for row in rows)
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(row.get(key))) for key in columns))
    console.print(table)


def shown(value: object) -> str:
    """Format a cell: empty for None and NaN, yes or no, and floats with three decimals."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_json(value: object) -> None:
    """Print one JSON document to standard output; numbers that are not finite are null."""
    print(json.dumps(_json_value(value), ensure_ascii=False, indent=2))


def print_written(path: Path) -> None:
    """Print where the result was written, and its size."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    print(f"{path}: {sum(file.stat().st_size for file in files):,} bytes")


def records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a DataFrame as dicts of plain Python values."""
    return [_json_value(row) for row in frame.to_dict("records")]


def _json_value(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_value(item) for item in value]
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
