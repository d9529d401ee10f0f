"""What a sweep found: one tidy table, heat maps, and the best setting as a file for EasyEdit, with its uncertainty.

A point of difference on a hundred facts is mostly noise. So every number has a 95% interval from resampling the facts
(Efron 1979), and a cell counts as worse than the best only where the interval of their difference on the same facts
leaves 0 out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from nse_plugin.evaluation.probability import METRICS
from nse_plugin.experiments.cell import SCORE, cells
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.preset import preset_text
from nse_plugin.experiments.record import Record
from nse_plugin.home import written_whole

RESAMPLES = 2000
_TITLES = {"efficacy": "Efficacy", "generalization": "Generalization", "specificity": "Specificity", SCORE: "Score"}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """A finished cell. by_fact: metric -> a number per fact, NaN where it has none. costs: as in its checkpoint."""

    name: str
    hparams: dict[str, Any]
    overall: dict[str, float]
    by_fact: dict[str, Floats]
    costs: dict[str, Any]


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
    draws = {cell.name: _resampled(cell) for cell in done}
    frame = _table(done, fields, draws)
    with written_whole(out / "sweep.csv") as path:
        frame.to_csv(path, index=False, float_format="%.6g")

    best = max(done, key=lambda cell: cell.overall[objective[0]])
    ties = [cell for cell in done if cell is not best and _within_noise(draws, cell, best, objective[0])]
    told = _found(best, ties, done, fields, objective[0], draws)
    with written_whole(out / "best.yaml") as path:
        path.write_text(preset_text(best.hparams, [told]), encoding="utf-8")
    costs = _costs(done)
    with written_whole(out / "sweep.json") as path:
        path.write_text(json.dumps({**costs, "failed": failed, "found": told}, indent=1), encoding="utf-8")
    _save(_maps(frame, fields, best) if len(fields) == 2 else _panels(frame, fields, best), out / "sweep.png")
    if len(objective) == 2:
        _save(_front(done, objective), out / "front.png")
    _say(console, out, told, costs)
    return frame


# -- numbers -----------------------------------------------------------------------------------------------------


def _read(record: Record) -> Cell:
    ended = record.ended
    assert ended is not None
    checkpoint = record.load(record.edits[-1])
    by_fact = {metric: checkpoint.facts[metric].to_numpy(dtype=float) for metric in METRICS}
    return Cell(record.folder.name, ended["hparams"], checkpoint.overall, by_fact, checkpoint.costs)


def _different(done: Sequence[Cell]) -> list[Cell]:
    """Without those that are the same setting, said in other words."""
    return list({json.dumps(cell.hparams, sort_keys=True): cell for cell in reversed(done)}.values())


def _varied(done: Sequence[Cell]) -> list[str]:
    """The fields in which cells differ."""
    told = [{name: json.dumps(value) for name, value in cell.hparams.items()} for cell in done]
    return [name for name in told[0] if len({one[name] for one in told}) > 1] or ["p"]


def _resampled(cell: Cell, seed: int = 0) -> dict[str, Floats]:
    """Each metric on `RESAMPLES` draws of the facts, [draws]; the same draws for every cell of as many facts."""
    count = len(cell.by_fact[METRICS[0]])
    rows = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = {metric: _mean(cell.by_fact[metric][rows]) for metric in METRICS}
        inverse = np.mean([1 / means[metric] for metric in METRICS], axis=0)
    return {**means, SCORE: np.where(np.isfinite(inverse), 1 / inverse, 0.0)}


def _mean(values: Floats) -> Floats:
    """Along the last axis, NaN left out; of nothing, NaN."""
    there = ~np.isnan(values)
    total: Floats = np.where(there, values, 0.0).sum(axis=-1) / there.sum(axis=-1)
    return total


def _interval(draws: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _within_noise(draws: dict[str, dict[str, Floats]], cell: Cell, best: Cell, metric: str) -> bool:
    """Whether the interval of best - cell, on the same draws of the facts, has 0 in it."""
    low, _ = _interval(draws[best.name][metric] - draws[cell.name][metric])
    return low <= 0.0


def _table(done: Sequence[Cell], fields: Sequence[str], draws: dict[str, dict[str, Floats]]) -> pd.DataFrame:
    rows = []
    for cell in done:
        setting = {name: _plain(cell.hparams[name]) for name in fields}
        for metric, value in cell.overall.items():
            low, high = _interval(draws[cell.name][metric]) if metric in draws[cell.name] else (np.nan, np.nan)
            rows.append({**setting, "metric": metric, "value": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _costs(done: Sequence[Cell]) -> dict[str, Any]:
    """Over all cells: values computed and read, seconds by part."""
    needed = sum(len(cell.by_fact[METRICS[0]]) for cell in done)
    read = sum(cell.costs["values_from_store"] for cell in done)
    parts = ("moments", "values", "update", "measure")
    seconds = {part: sum(cell.costs["seconds"][part] for cell in done) for part in parts}
    return {"cells": len(done), "values_computed": needed - read, "values_read": read, "seconds": seconds}


# -- words -------------------------------------------------------------------------------------------------------


def _found(
    best: Cell,
    ties: Sequence[Cell],
    done: Sequence[Cell],
    fields: Sequence[str],
    objective: str,
    draws: dict[str, dict[str, Floats]],
) -> str:
    low, high = _interval(draws[best.name][objective])
    setting = ", ".join(f"{name} = {_plain(best.hparams[name])}" for name in fields)
    count = len(best.by_fact[METRICS[0]])
    told = (
        f"Best of {len(done)} cells on {count} facts: {setting}, {objective} {best.overall[objective]:.3f} "
        f"(95% interval {low:.3f} to {high:.3f})."
    )
    if not ties:
        return f"{told} Every other cell is worse beyond the noise of these facts."
    return f"{told} {len(ties)} of the other {len(done) - 1} are not worse beyond the noise of these facts."


def _say(console: Console, out: Path, told: str, costs: dict[str, Any]) -> None:
    seconds = ", ".join(f"{part} {taken:.0f} s" for part, taken in costs["seconds"].items())
    console.print(
        f"{costs['cells']} cells: {costs['values_computed']:,} values z computed, {costs['values_read']:,} read from "
        f"the store ({seconds}).",
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


def _maps(frame: pd.DataFrame, fields: Sequence[str], best: Cell) -> Figure:
    """A heat map per metric over the two fields; the best cell framed."""
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
        place = [list(names).index(_plain(best.hparams[field])) for names, field in
                 zip((grid.columns, grid.index), (fields[1], fields[0]), strict=True)]  # fmt: skip
        axes.add_patch(_frame_around(*place))
        axes.set_xticks(range(len(grid.columns)), [f"{name}" for name in grid.columns])
        axes.set_yticks(range(len(grid.index)), [f"{name}" for name in grid.index])
        axes.set(title=title, xlabel=fields[1], ylabel=fields[0])
    figure.suptitle(f"{len(frame) // frame['metric'].nunique()} cells, in percent; framed: the best")
    return figure


def _frame_around(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#d55e00", linewidth=2.5)


def _panels(frame: pd.DataFrame, fields: Sequence[str], best: Cell) -> Figure:
    """Each metric against each field, with its interval; the best cell in another colour."""
    figure = Figure(figsize=(12, 2.9 * len(fields)), layout="constrained")
    for row, field in zip(figure.subplots(len(fields), 4, squeeze=False), fields, strict=True):
        for axes, (metric, title) in zip(row, _TITLES.items(), strict=True):
            shown = frame[frame["metric"] == metric]
            chosen = np.logical_and.reduce([shown[name] == _plain(best.hparams[name]) for name in fields])
            _points(axes, shown[~chosen], field, "#0072b2")
            _points(axes, shown[chosen], field, "#d55e00")
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
