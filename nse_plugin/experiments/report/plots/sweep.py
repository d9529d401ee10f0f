"""Figures of a sweep: heat maps, panels, and the Pareto front of two objectives."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from nse_plugin.evaluation.intervals import SCORE
from nse_plugin.experiments.report.columns import TO
from nse_plugin.experiments.report.finished import FinishedTrial, plain, sortable
from nse_plugin.experiments.report.plots.style import FAINT, GRID, INK, new_figure, titled
from nse_plugin.support.suggestions import number_of

_CHOSEN, _OTHERS = "#d55e00", "#0072b2"  # orange and blue
_MOST_NAMES = 9  # tick labels below a panel
_TITLES = {"efficacy": "Efficacy", "generalization": "Generalization", "specificity": "Specificity", SCORE: "Score"}


def scores_figure(
    frame: pd.DataFrame, done: Sequence[FinishedTrial], fields: Sequence[str], chosen: FinishedTrial
) -> Figure:
    """Draw heat maps if the cells fill at least half of a grid of two fields, else panels (e.g. for an optimising
    sweeper)."""
    labels = {field: _labels(done, field) for field in fields}
    titles = {metric: title for metric, title in _TITLES.items() if metric in set(frame["metric"])}
    if len(fields) == 2 and 2 * len(done) >= math.prod(map(len, labels.values())):
        return _maps(frame, titles, labels, chosen)
    return _panels(frame, titles, labels, chosen)


def _labels(done: Sequence[FinishedTrial], field: str) -> dict[object, str]:
    """Return the axis label of each value of a field, by the value as in sweep.csv, in order."""
    values = sorted((cell.hparams[field] for cell in done), key=sortable)
    return {plain(value): _label(value) for value in values}


def _label(value: object) -> str:
    """Return the label of a value; a list of consecutive layers is shortened to its first and last."""
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, list):
        return str(plain(value))
    if len(value) > 2 and isinstance(value[0], int) and value == [*range(value[0], value[0] + len(value))]:
        return f"{value[0]}{TO}{value[-1]}"
    return ", ".join(map(str, value))


def _maps(
    frame: pd.DataFrame, titles: Mapping[str, str], labels: Mapping[str, Mapping[object, str]], chosen: FinishedTrial
) -> Figure:
    """Draw one heat map per metric over the two fields, with the cell of best.yaml framed. Colours span at least 10
    points."""
    (down, rows), (across, columns) = labels.items()
    wide = min(2, len(titles))
    high = -(-len(titles) // wide)
    width, height = max(4.75, 0.55 * len(columns) + 1.2), max(3.5, 0.3 * len(rows) + 0.9)
    figure, grid = new_figure(wide * width, high * height + 0.4, rows=high, columns=wide)
    row_of_best, column_of_best = (list(names).index(plain(chosen.hparams[field])) for field, names in labels.items())
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
    frame: pd.DataFrame, titles: Mapping[str, str], labels: Mapping[str, Mapping[object, str]], chosen: FinishedTrial
) -> Figure:
    """Plot each metric against each field, with its interval: the field's values are equally spaced, cells with the
    same value are next to each other, and the cell of best.yaml has another colour."""
    width, height = 12 if len(titles) > 1 else 5.5, 2.9 * len(labels) + 0.4
    figure, grid = new_figure(width, height, rows=len(labels), columns=len(titles))
    for axes, (field, metric) in zip(grid, itertools.product(labels, titles), strict=True):
        shown = frame[frame["metric"] == metric]
        names = labels[field]
        places = _side_by_side([list(names).index(value) for value in shown[field]])
        own = np.logical_and.reduce([shown[name] == plain(chosen.hparams[name]) for name in labels])
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
    """Return positions along an axis, with equal ones moved slightly apart."""
    given = pd.Series(places, dtype=float)
    same = given.groupby(given)
    count = same.transform("size")
    return (given + (same.cumcount() - (count - 1) / 2) * 0.7 / count.clip(lower=8)).to_numpy()


def _name_places(axes: Axes, field: str, names: Sequence[str], room: int = 28) -> None:
    """Label the x axis with a field and its values; an empty name has no tick. room: number of characters that fit side
    by side; names that are longer in total are rotated."""
    named = [(place, name) for place, name in enumerate(names) if name]
    axes.set_xticks([place for place, _ in named], [name for _, name in named])
    if len(named) * (1 + max(len(name) for _, name in named)) > room:
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel(field)


def front_figure(done: Sequence[FinishedTrial], objective: Sequence[str]) -> Figure:
    """Plot the cells by two objectives, with the Pareto front joined by a line."""
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
