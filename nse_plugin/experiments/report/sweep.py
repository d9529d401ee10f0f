"""Results of a sweep: one tidy table, heat maps, and the best setting as a file for EasyEdit, with its uncertainty.

A difference of one point on a hundred facts is mostly noise. So every number has a 95% interval over the facts, and a
cell counts as worse than the best only by a paired test on the same facts (`nse_plugin.evaluation.intervals`).
Among the cells that are not worse, best.yaml holds the one that changes the fewest of the preset's values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from nse_plugin.evaluation.intervals import LEVEL, NONE, compare_facts, metric_intervals
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.report.finished import FinishedTrial, distinct, plain, read_trial, sortable, varied_fields
from nse_plugin.experiments.report.plots.sweep import front_figure, scores_figure
from nse_plugin.experiments.report.summary import clipped
from nse_plugin.experiments.run.cell import cells
from nse_plugin.hparams.files import preset_text
from nse_plugin.support.files import written_whole
from nse_plugin.support.suggestions import number_of


def write_sweep(out: Path, objective: Sequence[str], console: Console) -> pd.DataFrame:
    """Write sweep.csv, best.yaml, sweep.json and the plots into `out`, and print a summary.

    objective: one or two metrics; the first decides which cell is best. Returns the frame of sweep.csv: one column per
    field that differs between cells, then metric, value, low, high. Raises PlanError if no cell could be run.
    """
    records = cells(out)
    done = distinct([read_trial(record) for record in records if record.is_done])
    failed = {record.folder.name: record.ended["error"] for record in records if record.ended and not record.is_done}
    for name, error in failed.items():
        console.print(f"{name} failed: {error}", markup=False, soft_wrap=True)
    if not done:
        raise PlanError(f"No cell of {out} could be run: see above.")
    fields = varied_fields(done)
    done.sort(key=lambda cell: [sortable(cell.hparams[name]) for name in fields])
    frame = _table(done, fields)
    with written_whole(out / "sweep.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")

    best = max(done, key=lambda cell: cell.overall[objective[0]])
    ties = [cell for cell in done if cell is best or not _is_worse(cell, best, objective[0])]
    chosen = max(ties, key=lambda cell: (cell.as_in_the_preset(fields), cell.overall[objective[0]]))
    summary = _found(best, chosen, ties, done, len(failed), fields, objective[0])
    with written_whole(out / "best.yaml") as path:
        path.write_text(preset_text(chosen.hparams, [summary]), encoding="utf-8")
    costs = _costs(done)
    with written_whole(out / "sweep.json") as path:
        path.write_text(json.dumps({**costs, "failed": failed, "found": summary}, indent=1), encoding="utf-8")
    _save(scores_figure(frame, done, fields, chosen), out / "sweep.png")
    if len(objective) == 2:
        _save(front_figure(done, objective), out / "front.png")
    _say(console, out, summary, costs)
    return frame


def _is_worse(cell: FinishedTrial, best: FinishedTrial, metric: str) -> bool:
    """Return whether a cell is significantly worse than the best, by a paired test on the facts."""
    return compare_facts(cell.by_fact, best.by_fact)[metric].p < 1 - LEVEL


def _table(done: Sequence[FinishedTrial], fields: Sequence[str]) -> pd.DataFrame:
    rows = []
    for cell in done:
        setting, around = {name: plain(cell.hparams[name]) for name in fields}, metric_intervals(cell.by_fact)
        for metric, value in cell.overall.items():
            low, high = around.get(metric, NONE)
            rows.append({**setting, "metric": metric, "value": value, "low": low, "high": high})
    return clipped(pd.DataFrame(rows))


def _costs(done: Sequence[FinishedTrial]) -> dict[str, object]:
    """Sum over all cells: values computed, values read from the store, and seconds by part."""
    needed = sum(len(cell.by_fact) for cell in done)
    read = sum(cell.costs["values_from_store"] for cell in done)
    parts = ("moments", "values", "update", "measure")
    seconds = {part: sum(cell.costs["seconds"][part] for cell in done) for part in parts}
    return {"cells": len(done), "values_computed": needed - read, "values_read": read, "seconds": seconds}


def _found(
    best: FinishedTrial,
    chosen: FinishedTrial,
    ties: Sequence[FinishedTrial],
    done: Sequence[FinishedTrial],
    failed: int,
    fields: Sequence[str],
    objective: str,
) -> str:
    """Summarise the result in sentences. ties: the cells that are not worse than the best, including the best. chosen:
    the cell in best.yaml. failed: number of failed cells."""
    low, high = metric_intervals(best.by_fact)[objective]
    summary = (
        f"Best of {number_of(len(done), 'cell')} on {number_of(len(best.by_fact), 'fact')}: {best.setting(fields)}, "
        f"{objective} {100 * best.overall[objective]:.1f} (95% interval {100 * low:.1f} to {100 * high:.1f}). "
    )
    others, alike = len(done) - 1, len(ties) - 1
    if not others:
        summary += "It is the only cell that was run."
    elif not alike:
        summary += "Every other cell is worse beyond the noise of these facts."
    elif alike < others:
        summary += f"{alike} of the other {others} are not worse beyond the noise of these facts."
    else:
        summary += "The other cells are not worse beyond the noise of these facts"
        summary += "." if chosen.preset is None else "; no difference: keep the preset."
    if chosen is not best:
        from_what = "the defaults" if chosen.preset is None else "the preset"
        summary += (
            f" best.yaml has {chosen.setting(fields)}: as good within that noise, and it changes {from_what} least."
        )
    return summary + (f" {failed} of {number_of(len(done) + failed, 'cell')} failed." if failed else "")


def _say(console: Console, out: Path, summary: str, costs: dict[str, Any]) -> None:
    seconds = ", ".join(f"{part} {taken:.0f} s" for part, taken in costs["seconds"].items())
    console.print(
        f"{number_of(costs['cells'], 'cell')}: {number_of(costs['values_computed'], 'value')} z computed, "
        f"{costs['values_read']:,} read from the store ({seconds}).",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    console.print(summary, soft_wrap=True, highlight=False)
    console.print(f"{out / 'sweep.csv'}, {out / 'sweep.png'}, {out / 'best.yaml'}", soft_wrap=True, highlight=False)


def _save(figure: Figure, file: Path) -> None:
    with written_whole(file) as path:
        figure.savefig(path, dpi=150)
