"""Style shared by all figures: colours, axes and tick labels.

Figures use matplotlib's Figure without pyplot: no window, no global state. On a dark page, the report replaces the
colours in `IN_THE_DARK`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import OURS
from nse_plugin.experiments.report.results import in_order

INK, FAINT, GRID, PAPER = "#1f2328", "#6b7280", "#dfe3e8", "#ffffff"
# Colours of methods with their dark variants, NSE's first: colour-blind safe, from Okabe and Ito (without black and
# yellow) and from Paul Tol. Methods differ in their markers as well.
COLOURS = {
    "#0072b2": "#4aa3e0", "#d55e00": "#f2854a", "#009e73": "#2fc79b", "#aa4499": "#d67fc9", "#e69f00": "#f0b429",
    "#56b4e9": "#a5d8f7", "#882255": "#c76a96", "#999933": "#c2c25e", "#7f6a55": "#bda68d", "#332288": "#9d8fe0",
}  # fmt: skip
MARKERS = "osD^vPX<>p"
PARTS = {"values": "#1d4e79", "update": "#5b93c1", "other": "#c9cdd2"}
IN_THE_DARK = {INK: "#e6e8eb", FAINT: "#9aa3ae", GRID: "#353a41", PAPER: "#16191d", **COLOURS} | {
    "#1d4e79": "#3d7fb8", "#5b93c1": "#7db2dc", "#c9cdd2": "#6f7680",
}  # fmt: skip
_FAR_APART = 20  # ratio of largest to smallest value above which an axis is logarithmic
PLAIN: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9}  # style of a legend


@dataclass(frozen=True)
class Style:
    """How a method's line is drawn."""

    colour: str
    marker: str
    width: float


def styles_of(methods: Sequence[str]) -> dict[str, Style]:
    """Return the style of each edited method. NSE always has the first style; other methods get theirs in order."""
    edited = sorted((name for name in in_order(methods) if name != BEFORE), key=lambda name: name != OURS)
    first = 0 if OURS in edited else 1
    colours = list(COLOURS)
    return {
        name: Style(colours[index % len(colours)], MARKERS[index % len(MARKERS)], 2.4 if name == OURS else 1.4)
        for index, name in enumerate(edited, start=first)
    }


def new_figure(
    width: float, height: float, *, rows: int, columns: int, share_y: bool = False, first_wider: bool = False
) -> tuple[Figure, list[Axes]]:
    """Create a figure and return it with its axes, row by row. width, height: in inches."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06, wspace=0.05))
    ratios = [1.6 if first_wider and column == 0 and columns > 1 else 1.0 for column in range(columns)]
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y, width_ratios=ratios)
    for axes in grid.flat:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("bottom", "left"):
            axes.spines[side].set_color(FAINT)
        axes.tick_params(colors=FAINT, labelcolor=INK, labelsize=9, length=3)
        axes.xaxis.label.set(color=FAINT, size=9)
        axes.patch.set_visible(False)
    return figure, list(grid.flat)


def titled(axes: Axes, title: str) -> None:
    """Write a title above the axes, aligned left."""
    axes.set_title(title, loc="left", size=10, color=INK, pad=8)


def log_if_far_apart(axes: Axes, values: pd.Series[float], axis: str) -> None:
    """Make an axis logarithmic with plain numbers if the values are far apart, else format it with `plain_numbers`.
    Values that are not finite are ignored."""
    finite = values[np.isfinite(values) & (values > 0)]
    if not len(finite) or finite.max() <= _FAR_APART * finite.min():
        plain_numbers(axes, values, axis)
        return
    axes.set(**{f"{axis}scale": "log"})
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    few_powers = finite.max() < 1000 * finite.min()
    chosen.set_major_locator(LogLocator(subs=(1, 2, 5)) if few_powers else LogLocator(numticks=6))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    chosen.set_minor_locator(NullLocator())


def plain_numbers(axes: Axes, values: pd.Series[float], axis: str) -> None:
    """Set few ticks, each labelled with its full number: by default, matplotlib labels close values with an offset. The
    axis spans at least a thousandth of the largest value, and is cut at 0 if no value is negative."""
    finite = values[np.isfinite(values)]
    if len(finite):
        low, high = finite.min(), finite.max()
        length = 1.1 * max(high - low, abs(high) / 1000, 1e-4)
        start, end = (low + high - length) / 2, (low + high + length) / 2
        axes.set(**{f"{axis}lim": (max(start, 0.0) if low >= 0 else start, end)})
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    chosen.set_major_formatter(formatter)
    chosen.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def few(edits: Sequence[int], most: int = 6) -> list[int]:
    """Return the checkpoints that are far enough apart to be labelled, including the last. edits: ascending."""
    chosen: list[int] = []
    for number in reversed(edits):
        if not chosen or chosen[0] - number >= edits[-1] / most:
            chosen.insert(0, number)
    return chosen
