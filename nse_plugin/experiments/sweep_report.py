"""What a sweep found: one tidy table, heat maps, and the best setting as a file for EasyEdit, with its uncertainty.

A point of difference on a hundred facts is mostly noise. So every number has a 95% interval over the facts, and a cell
counts as worse than the best only where a paired test on the same facts says so (`nse_plugin.evaluation.intervals`).
Among cells that are not, best.yaml holds the one that changes the fewest of the preset's values.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from nse_plugin.evaluation.intervals import LEVEL, NONE, SCORE, compare_facts, metric_intervals
from nse_plugin.experiments.cell import cells
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.preset import preset_text
from nse_plugin.experiments.record import Record
from nse_plugin.experiments.tables import clipped
from nse_plugin.home import written_whole
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.spelling import number_of

_DEFAULTS = {spec.name: spec.default for spec in dataclasses.fields(NSEHyperParams)}
_TITLES = {"efficacy": "Efficacy", "generalization": "Generalization", "specificity": "Specificity", SCORE: "Score"}


@dataclass(frozen=True)
class Cell:
    """A finished cell. by_fact: a row a fact, a column a metric. costs: as in its checkpoint. preset: the values of all
    fields without the sweep; None where the sweep had no preset to start from."""

    name: str
    hparams: dict[str, Any]
    overall: dict[str, float]
    by_fact: pd.DataFrame
    costs: dict[str, Any]
    preset: dict[str, Any] | None

    def setting(self, fields: Sequence[str]) -> str:
        return ", ".join(f"{name} = {_plain(self.hparams[name])}" for name in fields)

    def as_in_the_preset(self, fields: Sequence[str]) -> int:
        """How many of the fields have the preset's value; without a preset, their default."""
        usual = _DEFAULTS if self.preset is None else self.preset
        return sum(self.hparams[name] == usual.get(name) for name in fields)


def write_sweep(out: Path, objective: Sequence[str], console: Console) -> pd.DataFrame:
    """Write sweep.csv, best.yaml, sweep.json and the plots into `out`, and say what was found.

    Returns sweep.csv's frame: a column per field that differs between cells, then metric, value, low, high. Raises
    PlanError when no cell could be run.
    """
    records = cells(out)
    done = _different([_read(record) for record in records if record.is_done])
    failed = {record.folder.name: record.ended["error"] for record in records if record.ended and not record.is_done}
    for name, error in failed.items():
        console.print(f"{name} failed: {error}", markup=False, soft_wrap=True)
    if not done:
        raise PlanError(f"No cell of {out} could be run: see above.")
    fields = _varied(done)
    done.sort(key=lambda cell: [_sortable(cell.hparams[name]) for name in fields])
    frame = _table(done, fields)
    with written_whole(out / "sweep.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")

    best = max(done, key=lambda cell: cell.overall[objective[0]])
    ties = [cell for cell in done if cell is best or not _is_worse(cell, best, objective[0])]
    chosen = max(ties, key=lambda cell: (cell.as_in_the_preset(fields), cell.overall[objective[0]]))
    told = _found(best, chosen, ties, done, len(failed), fields, objective[0])
    with written_whole(out / "best.yaml") as path:
        path.write_text(preset_text(chosen.hparams, [told]), encoding="utf-8")
    costs = _costs(done)
    with written_whole(out / "sweep.json") as path:
        path.write_text(json.dumps({**costs, "failed": failed, "found": told}, indent=1), encoding="utf-8")
    _save(_maps(frame, fields, chosen) if len(fields) == 2 else _panels(frame, fields, chosen), out / "sweep.png")
    if len(objective) == 2:
        _save(_front(done, objective), out / "front.png")
    _say(console, out, told, costs)
    return frame


# -- numbers -----------------------------------------------------------------------------------------------------


def _read(record: Record) -> Cell:
    ended = record.ended
    assert ended is not None
    checkpoint = record.load(record.edits[-1])
    by_fact = checkpoint.facts[[name for name in checkpoint.facts if name in checkpoint.overall]]
    preset = _preset(record, ended["hparams"])
    return Cell(record.folder.name, ended["hparams"], checkpoint.overall, by_fact, checkpoint.costs, preset)


def _preset(record: Record, hparams: Mapping[str, Any]) -> dict[str, Any] | None:
    """All fields as they are without the sweep: in the preset that it was started with, or in that of the model; None
    where there is neither."""
    asked = record.folder / "asked.json"
    named = json.loads(asked.read_text(encoding="utf-8")).get("preset") if asked.is_file() else None
    try:
        if named:
            return NSEHyperParams.from_hparams(named).to_dict()
        return NSEHyperParams.for_model(hparams["model_name"]).to_dict()
    except HyperParamsError:
        return None


def _different(done: Sequence[Cell]) -> list[Cell]:
    """Without those that are the same setting, said in other words."""
    return list({json.dumps(cell.hparams, sort_keys=True): cell for cell in reversed(done)}.values())


def _varied(done: Sequence[Cell]) -> list[str]:
    """The fields in which cells differ."""
    told = [{name: json.dumps(value) for name, value in cell.hparams.items()} for cell in done]
    return [name for name in told[0] if len({one[name] for one in told}) > 1] or ["p"]


def _is_worse(cell: Cell, best: Cell, metric: str) -> bool:
    """Beyond the noise of the facts."""
    return compare_facts(cell.by_fact, best.by_fact)[metric].p < 1 - LEVEL


def _table(done: Sequence[Cell], fields: Sequence[str]) -> pd.DataFrame:
    rows = []
    for cell in done:
        setting, around = {name: _plain(cell.hparams[name]) for name in fields}, metric_intervals(cell.by_fact)
        for metric, value in cell.overall.items():
            low, high = around.get(metric, NONE)
            rows.append({**setting, "metric": metric, "value": value, "low": low, "high": high})
    return clipped(pd.DataFrame(rows))


def _costs(done: Sequence[Cell]) -> dict[str, Any]:
    """Over all cells: values computed and read, seconds by part."""
    needed = sum(len(cell.by_fact) for cell in done)
    read = sum(cell.costs["values_from_store"] for cell in done)
    parts = ("moments", "values", "update", "measure")
    seconds = {part: sum(cell.costs["seconds"][part] for cell in done) for part in parts}
    return {"cells": len(done), "values_computed": needed - read, "values_read": read, "seconds": seconds}


# -- words -------------------------------------------------------------------------------------------------------


def _found(
    best: Cell,
    chosen: Cell,
    ties: Sequence[Cell],
    done: Sequence[Cell],
    failed: int,
    fields: Sequence[str],
    objective: str,
) -> str:
    """ties: the cells that are not worse than the best, which is one of them. chosen: that of best.yaml."""
    low, high = metric_intervals(best.by_fact)[objective]
    told = (
        f"Best of {number_of(len(done), 'cell')} on {number_of(len(best.by_fact), 'fact')}: {best.setting(fields)}, "
        f"{objective} {100 * best.overall[objective]:.1f} (95% interval {100 * low:.1f} to {100 * high:.1f}). "
    )
    others, alike = len(done) - 1, len(ties) - 1
    if not others:
        told += "It is the only cell that was run."
    elif not alike:
        told += "Every other cell is worse beyond the noise of these facts."
    elif alike < others:
        told += f"{alike} of the other {others} are not worse beyond the noise of these facts."
    else:
        told += "The other cells are not worse beyond the noise of these facts"
        told += "." if chosen.preset is None else "; no difference: keep the preset."
    if chosen is not best:
        from_what = "the defaults" if chosen.preset is None else "the preset"
        told += f" best.yaml has {chosen.setting(fields)}: as good within that noise, and it changes {from_what} least."
    return told + (f" {failed} of {number_of(len(done) + failed, 'cell')} failed." if failed else "")


def _say(console: Console, out: Path, told: str, costs: dict[str, Any]) -> None:
    seconds = ", ".join(f"{part} {taken:.0f} s" for part, taken in costs["seconds"].items())
    console.print(
        f"{number_of(costs['cells'], 'cell')}: {number_of(costs['values_computed'], 'value')} z computed, "
        f"{costs['values_read']:,} read from the store ({seconds}).",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    console.print(told, soft_wrap=True, highlight=False)
    console.print(f"{out / 'sweep.csv'}, {out / 'sweep.png'}, {out / 'best.yaml'}", soft_wrap=True, highlight=False)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _sortable(value: Any) -> tuple[bool, Any]:
    number = isinstance(value, int | float)
    return (not number, value if number else json.dumps(value))


# -- plots -------------------------------------------------------------------------------------------------------


def _maps(frame: pd.DataFrame, fields: Sequence[str], chosen: Cell) -> Figure:
    """A heat map per metric over the two fields; that of best.yaml framed."""
    figure = Figure(figsize=(9.5, 7.5), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, _TITLES.items(), strict=True):
        shown = frame[frame["metric"] == metric]
        grid = shown.pivot(index=fields[0], columns=fields[1], values="value")
        grid = grid.reindex(index=shown[fields[0]].unique(), columns=shown[fields[1]].unique())
        axes.imshow(grid, cmap="YlGnBu", aspect="auto", origin="lower")
        low, high = np.nanmin(grid), np.nanmax(grid)
        for (row, column), value in np.ndenumerate(grid.to_numpy(dtype=float)):
            if not np.isnan(value):
                dark = value > (low + high) / 2
                axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color="w" if dark else "k")
        place = [list(names).index(_plain(chosen.hparams[field])) for names, field in
                 zip((grid.columns, grid.index), (fields[1], fields[0]), strict=True)]  # fmt: skip
        axes.add_patch(_frame_around(*place))
        axes.set_xticks(range(len(grid.columns)), [f"{name}" for name in grid.columns])
        axes.set_yticks(range(len(grid.index)), [f"{name}" for name in grid.index])
        axes.set(title=title, xlabel=fields[1], ylabel=fields[0])
    figure.suptitle(f"{number_of(len(frame) // frame['metric'].nunique(), 'cell')}, in percent; framed: best.yaml")
    return figure


def _frame_around(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2.5)


def _panels(frame: pd.DataFrame, fields: Sequence[str], chosen: Cell) -> Figure:
    """Each metric against each field, with its interval; the cell of best.yaml in another colour."""
    figure = Figure(figsize=(12, 2.9 * len(fields)), layout="constrained")
    for row, field in zip(figure.subplots(len(fields), 4, squeeze=False), fields, strict=True):
        for axes, (metric, title) in zip(row, _TITLES.items(), strict=True):
            shown = frame[frame["metric"] == metric]
            own = np.logical_and.reduce([shown[name] == _plain(chosen.hparams[name]) for name in fields])
            _points(axes, shown[~own], field, "#0072b2")
            _points(axes, shown[own], field, "#d55e00")
            axes.set(title=title, xlabel=field)
    return figure


def _points(axes: Axes, shown: pd.DataFrame, field: str, colour: str) -> None:
    places = shown[field] if pd.api.types.is_numeric_dtype(shown[field]) else shown[field].astype(str)
    around = [shown["value"] - shown["low"], shown["high"] - shown["value"]]
    axes.errorbar(places, shown["value"], yerr=around, fmt="o", color=colour, ecolor="#c9cdd2", markersize=5)


def _front(done: Sequence[Cell], objective: Sequence[str]) -> Figure:
    """The cells by two objectives, those that no other beats in both joined."""
    figure = Figure(figsize=(5.5, 4.5), layout="constrained")
    axes = figure.subplots()
    points = np.array([[cell.overall[name] for name in objective] for cell in done])
    beaten = [bool(np.any(np.all(points >= point, axis=1) & np.any(points > point, axis=1))) for point in points]
    front = points[~np.array(beaten)]
    front = front[np.argsort(front[:, 0])]
    axes.plot(points[:, 0], points[:, 1], "o", color="#c9cdd2")
    axes.plot(front[:, 0], front[:, 1], "o-", color="#d55e00")
    axes.set(xlabel=_TITLES[objective[0]], ylabel=_TITLES[objective[1]], title="Pareto front")
    return figure


def _save(figure: Figure, file: Path) -> None:
    with written_whole(file) as path:
        figure.savefig(path, dpi=150)
