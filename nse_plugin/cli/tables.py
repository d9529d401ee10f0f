"""What the commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH = 160  # columns of a table where there is no terminal


def print_table(rows: Iterable[Mapping[str, object]], columns: Mapping[str, str], title: str | None = None) -> None:
    """columns: title by the key in `rows`; a row may lack some."""
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
    """A cell: nothing for None and NaN, yes and no, probabilities and norms with three digits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_json(value: object) -> None:
    """One JSON document on standard output; NaN is null."""
    print(json.dumps(_json_value(value), ensure_ascii=False, indent=2))


def records(frame: Any) -> list[dict[str, Any]]:
    """The rows of a DataFrame as dicts of plain Python values."""
    return [_json_value(row) for row in frame.to_dict("records")]


def _json_value(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _json_value(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_json_value(item) for item in value]
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
