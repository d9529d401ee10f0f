"""What a sweep found: one tidy table, heat maps, and the best setting as a file for EasyEdit, with its uncertainty.

A point of difference on a hundred facts is mostly noise. So every number has a 95% interval over the facts, and a cell
counts as worse than the best only where a paired test on the same facts says so (`nse_plugin.evaluation.intervals`).
Among cells that are not, best.yaml holds the one that changes the fewest of the preset's values.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from rich.console import Console

from nse_plugin.evaluation.intervals import LEVEL, NONE, SCORE, compare_facts, metric_intervals
from nse_plugin.experiments.cell import cells
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plots import FAINT, GRID, INK, new_figure, titled
from nse_plugin.experiments.record import Record
from nse_plugin.experiments.tables import TO, clipped
from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.hparams.files import preset_text
from nse_plugin.support.files import written_whole
from nse_plugin.support.suggestions import number_of

_DEFAULTS = {spec.name: spec.default for spec in dataclasses.fields(NSEHyperParams)}
_CHOSEN, _OTHERS = "#d55e00", "#0072b2"  # orange and blue
_MOST_NAMES = 9  # below a panel
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
    _save(_figure(frame, done, fields, chosen), out / "sweep.png")
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
    return json.dumps(value) if value is None or isinstance(value, list) else value


def _sortable(value: Any) -> tuple[int, Any]:
    if isinstance(value, int | float):
        return 0, value
    return (1, value) if isinstance(value, list) else (2, json.dumps(value))


# -- plots -------------------------------------------------------------------------------------------------------


def _figure(frame: pd.DataFrame, done: Sequence[Cell], fields: Sequence[str], chosen: Cell) -> Figure:
    """Heat maps where cells fill a grid of two fields (of a sweeper that learns they do not)."""
    labels = {field: _labels(done, field) for field in fields}
    titles = {metric: title for metric, title in _TITLES.items() if metric in set(frame["metric"])}
    if len(fields) == 2 and 2 * len(done) >= math.prod(map(len, labels.values())):
        return _maps(frame, titles, labels, chosen)
    return _panels(frame, titles, labels, chosen)


def _labels(done: Sequence[Cell], field: str) -> dict[Any, str]:
    """A field's values in order, as in sweep.csv, and what is written along an axis for each."""
    values = sorted((cell.hparams[field] for cell in done), key=_sortable)
    return {_plain(value): _label(value) for value in values}


def _label(value: Any) -> str:
    """A number or a word; of a list of several layers in a row the first and the last."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, list):
        return str(_plain(value))
    if len(value) > 2 and isinstance(value[0], int) and value == [*range(value[0], value[0] + len(value))]:
        return f"{value[0]}{TO}{value[-1]}"
    return ", ".join(map(str, value))


def _maps(
    frame: pd.DataFrame, titles: Mapping[str, str], labels: Mapping[str, Mapping[Any, str]], chosen: Cell
) -> Figure:
    """A heat map per metric over the two fields; that of best.yaml framed. Colours span 10 points at least."""
    (down, rows), (across, columns) = labels.items()
    wide = min(2, len(titles))
    high = -(-len(titles) // wide)
    width, height = max(4.75, 0.55 * len(columns) + 1.2), max(3.5, 0.3 * len(rows) + 0.9)
    figure, grid = new_figure(wide * width, high * height + 0.4, rows=high, columns=wide)
    row_of_best, column_of_best = (list(names).index(_plain(chosen.hparams[field])) for field, names in labels.items())
    for axes, (metric, title) in zip(grid, titles.items(), strict=False):
        table = frame[frame["metric"] == metric].pivot(index=down, columns=across, values="value")
        values = table.reindex(index=list(rows), columns=list(columns)).to_numpy(dtype=float)
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        around = max(np.nanmax(values) - middle, 0.05)
        axes.imshow(values, cmap="YlGnBu", aspect="auto", origin="lower", vmin=middle - around, vmax=middle + around)
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "w" if value > middle else "k"
                axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", color=colour, size=9)
        corner = (column_of_best - 0.5, row_of_best - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_CHOSEN, linewidth=2.5, clip_on=False))
        titled(axes, title)
        _name_places(axes, across, list(columns.values()), room=max(45, 6 * len(columns)))
        axes.set_yticks(range(len(rows)), list(rows.values()))
        axes.set_ylabel(down, color=FAINT, size=9)
    for axes in grid[len(titles) :]:
        axes.set_axis_off()
    figure.suptitle(f"{_cells_of(frame)}, in percent; framed: best.yaml", color=INK, size=11)
    return figure


def _panels(
    frame: pd.DataFrame, titles: Mapping[str, str], labels: Mapping[str, Mapping[Any, str]], chosen: Cell
) -> Figure:
    """Each metric against each field, with its interval: the field's values at equal distances, cells of the same
    value next to each other; that of best.yaml in another colour."""
    width, height = 12 if len(titles) > 1 else 5.5, 2.9 * len(labels) + 0.4
    figure, grid = new_figure(width, height, rows=len(labels), columns=len(titles))
    for axes, (field, metric) in zip(grid, itertools.product(labels, titles), strict=True):
        shown = frame[frame["metric"] == metric]
        names = labels[field]
        places = _side_by_side([list(names).index(value) for value in shown[field]])
        own = np.logical_and.reduce([shown[name] == _plain(chosen.hparams[name]) for name in labels])
        for which, colour in ((~own, _OTHERS), (own, _CHOSEN)):
            axes.vlines(places[which], shown["low"][which], shown["high"][which], color=colour, alpha=0.45, lw=1.6)
            axes.plot(places[which], shown["value"][which], "o", color=colour, ms=5)
        titled(axes, titles[metric])
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(-0.6, len(names) - 0.4)
        few = -(-len(names) // _MOST_NAMES)
        _name_places(axes, field, [name if place % few == 0 else "" for place, name in enumerate(names.values())])
    figure.suptitle(f"{_cells_of(frame)}, with 95% intervals; orange: best.yaml", color=INK, size=11)
    return figure


def _cells_of(frame: pd.DataFrame) -> str:
    return number_of(len(frame) // frame["metric"].nunique(), "cell")


def _side_by_side(places: Sequence[int]) -> np.ndarray[Any, Any]:
    """Places along an axis, those that are the same a little apart."""
    given = pd.Series(places, dtype=float)
    same = given.groupby(given)
    count = same.transform("size")
    return (given + (same.cumcount() - (count - 1) / 2) * 0.7 / count.clip(lower=8)).to_numpy()


def _name_places(axes: Axes, field: str, names: Sequence[str], room: int = 28) -> None:
    """room: how many letters stand side by side; names that are longer together are slanted. An empty one has no
    tick."""
    named = [(place, name) for place, name in enumerate(names) if name]
    axes.set_xticks([place for place, _ in named], [name for _, name in named])
    if len(named) * (1 + max(len(name) for _, name in named)) > room:
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel(field)


def _front(done: Sequence[Cell], objective: Sequence[str]) -> Figure:
    """The cells by two objectives, those that no other beats in both joined."""
    figure, (axes,) = new_figure(5.5, 4.5, rows=1, columns=1)
    points = np.array([[cell.overall[name] for name in objective] for cell in done])
    beaten = [bool(np.any(np.all(points >= point, axis=1) & np.any(points > point, axis=1))) for point in points]
    front = points[~np.array(beaten)]
    front = front[np.argsort(front[:, 0])]
    axes.plot(points[:, 0], points[:, 1], "o", color=FAINT)
    axes.plot(front[:, 0], front[:, 1], "o-", color=_CHOSEN)
    axes.set_xlabel(_TITLES[objective[0]])
    axes.set_ylabel(_TITLES[objective[1]], color=FAINT, size=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    titled(axes, "Pareto front (orange)")
    return figure


def _save(figure: Figure, file: Path) -> None:
    with written_whole(file) as path:
        figure.savefig(path, dpi=150)
