"""A comparison's numbers as text, in rows and groups of columns, for the page, the terminal and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import (
    ANSWERS,
    AS_IN_THE_PAPER,
    ASKED_IN_CHAT,
    ASKED_PLAINLY,
    BESIDE_IT,
    COST,
    DRIFTS,
    EDITS,
    FOLLOWS,
    MINUS,
    SAYS,
    SUBJECTS,
    TO,
    Column,
    ability_columns,
)
from nse_plugin.experiments.report.results import Results, at_last_checkpoint
from nse_plugin.experiments.report.tables import FactTests, best_values, intervals, paper_table
from nse_plugin.support.suggestions import number_of


@dataclass(frozen=True)
class TableCell:
    """A number of the table as text. interval: its 95% interval as text, in small print; empty if there is none."""

    text: str
    best: bool
    interval: str


@dataclass(frozen=True)
class Row:
    """A method's row. cells: its numbers by column title, in the order of the columns. absence: why there are no
    numbers. edits: number of edits, if it is smaller than that of other methods."""

    method: str
    cells: dict[str, TableCell]
    absence: str | None = None
    edits: int | None = None


def chat_table(results: Results) -> dict[str, Any]:
    """Return the table that compares questions in a chat with the same questions in plain text: its groups of columns
    and its rows. Returns an empty dict if nothing was asked in a chat."""
    metrics = set(results.measured(results.summary)["metric"])
    groups = {"Asked in plain text": ASKED_PLAINLY, "Asked in a chat": ASKED_IN_CHAT}
    shown = {title: [column for column in group if column.metric in metrics] for title, group in groups.items()}
    if not shown["Asked in a chat"]:
        return {}
    columns = {title: group for title, group in shown.items() if group}
    return {"columns": columns, "rows": rows_of(results, ungrouped(columns))}


def columns_of(results: Results) -> dict[str, tuple[Column, ...]]:
    """Return the first table's groups of columns; whole answers and subjects are included if they were measured."""
    always = {"As in the paper": AS_IN_THE_PAPER, "Beside it": BESIDE_IT}
    sometimes = {"Whole answer": ANSWERS, "One subject": SUBJECTS}
    metrics = set(results.measured(results.summary)["metric"])
    there = {title: group for title, group in sometimes.items() if any(column.metric in metrics for column in group)}
    return {**always, **there, "Cost": COST}


def thinking_table(results: Results) -> dict[str, object]:
    """Return the second table, "Does the edited model still think?": its groups of columns, its rows, and the number of
    facts asked for free generation. Returns an empty dict if nothing was measured that the first table does not
    show."""
    summary = results.measured(results.summary)
    ability, metrics = ability_columns(summary), set(summary["metric"])
    says, follows, drifts = (
        [column for column in group if column.metric in metrics] for group in (SAYS, FOLLOWS, DRIFTS)
    )
    if not ability and {column.metric for column in (*says, *follows, *drifts)} <= {"efficacy", "perplexity"}:
        return {}
    groups = {"Says it freely": says, "Follows from it": follows, "General ability": ability, "Drift": drifts}
    facts = at_last_checkpoint(results.measured(results.facts))
    shown = {title: columns for title, columns in groups.items() if columns}
    asked = facts.groupby("method")["generation_contains"].count().max() if "generation_contains" in facts else 0
    rows = rows_of(results, ungrouped(shown))
    return {"asked": int(asked), "columns": shown, "rows": rows}


def ungrouped(groups: Mapping[str, Sequence[Column]]) -> list[Column]:
    """Return the columns of all groups, in order."""
    return [column for group in groups.values() for column in group]


def rows_of(results: Results, columns: Sequence[Column]) -> list[Row]:
    """Return one row per method, with the best values of each column marked."""
    summary, facts = results.measured(results.summary), results.measured(results.facts)
    table, around = paper_table(summary, columns), intervals(summary, columns)
    best = best_values(table, columns, FactTests(facts, columns), around)
    values, marks, most = table.to_dict("index"), best.to_dict("index"), table[EDITS].max()
    rows = []
    for name in results.methods:
        absence = results.absence(name)
        if absence is not None:
            rows.append(Row(name, {}, absence))
            continue
        edits = int(values[name][EDITS])
        cells = {
            column.title: TableCell(
                text=column.shown(values[name].get(column.title, np.nan)),
                best=marks[name].get(column.title, False),
                interval=_interval(*around.get((name, column.title), (np.nan, np.nan))),
            )
            for column in columns
        }
        rows.append(Row(name, cells, edits=edits if name != BEFORE and edits < most else None))
    return rows


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.0f}{TO}{high:.0f}".replace("-", MINUS)


def title_of(results: Results) -> str:
    """Return the title: how many methods were compared on how many facts."""
    count = len(results.methods) - (BEFORE in results.methods)
    facts = number_of(results.facts["case_id"].nunique(), "fact")
    return f"{number_of(count, 'editing method')} compared on {facts}"
