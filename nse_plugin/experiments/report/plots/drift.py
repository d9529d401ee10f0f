"""Figures of drift: how the hidden states of known facts moved, and how much the weights of each layer changed.

One function per figure, as in `comparison`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import OURS
from nse_plugin.experiments.report.plots.style import (
    FAINT,
    GRID,
    PLAIN,
    few,
    log_if_far_apart,
    new_figure,
    styles_of,
    titled,
)
from nse_plugin.experiments.report.results import at_last_checkpoint, in_order
from nse_plugin.support.suggestions import number_of

COLUMNS = 3  # panels side by side
MOST_LAYERS = 11


def hidden_plane(points: pd.DataFrame, methods: Sequence[str]) -> Figure | None:
    """Plot the hidden states of known facts on the first two principal components of the unedited model's states, with
    one panel per method at its last checkpoint: the unedited model's states in grey, the edited model's over them.
    Returns None if no edited model has states.

    points: columns method, edits, x, y, with the unedited model's points under the method `plan.BEFORE`. methods: all
    methods of the comparison, so that colours are the same in every figure. Each panel has its own scale, for which the
    grey points are the reference; points that are not finite are not drawn.
    """
    last = at_last_checkpoint(points)
    edited = last[last["method"] != BEFORE]
    if edited.empty:
        return None
    before = last[last["method"] == BEFORE]
    shown, styles = in_order(edited["method"]), styles_of(methods)
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure, grid = new_figure(10, 0.4 + 3.1 * rows, rows=rows, columns=columns)
    for axes, name in zip(grid, shown, strict=False):
        own = edited[edited["method"] == name]
        axes.scatter(before["x"], before["y"], s=9, color=FAINT, alpha=0.45, lw=0, zorder=2, rasterized=True)
        axes.scatter(own["x"], own["y"], s=9, color=styles[name].colour, alpha=0.6, lw=0, zorder=3, rasterized=True)
        titled(axes, f"{name}, {number_of(own['edits'].iloc[0], 'edit')}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
        axes.grid(color=GRID, lw=0.8)
    for place, axes in enumerate(grid):
        if place >= len(shown):
            axes.set_axis_off()
        elif place + columns >= len(shown):  # no panel below
            axes.set_xlabel("first component", loc="right")
        if place % columns == 0:
            axes.set_ylabel("second component", loc="top", color=FAINT, size=9)
    return figure


def weight_curves(weights: pd.DataFrame, methods: Sequence[str]) -> Figure | None:
    """Plot the relative norm of the change over the number of edits, with one panel per layer and one line per method.
    Returns None if there are fewer than two checkpoints.

    weights: columns method, edits, name, layer, relative_norm, as returned by `weight_change`. methods: as for
    `hidden_plane`. If several matrices of a layer changed, the largest change is shown; weights outside the layers
    (embeddings, final norm) share the last panel. If there are more than `MOST_LAYERS` panels, those with the largest
    final change are shown.
    """
    if weights["edits"].nunique() < 2:
        return None
    panels = weights.assign(layer=weights["layer"].astype("Int64").fillna(-1).astype(int))
    final = at_last_checkpoint(panels).groupby("layer")["relative_norm"].max()
    shown = sorted(final.nlargest(MOST_LAYERS, keep="first").index, key=lambda layer: (layer < 0, layer))
    changed = set(weights["method"])
    styles = {name: style for name, style in styles_of(methods).items() if name in changed}
    rows = -(-(len(shown) + 1) // COLUMNS)
    figure, grid = new_figure(10, 2.6 * rows, rows=rows, columns=COLUMNS)
    for axes, layer in zip(grid, shown, strict=False):
        values = panels[panels["layer"] == layer]
        for name, style in reversed(styles.items()):  # NSE on top
            own = values[values["method"] == name].groupby("edits")["relative_norm"].max()
            if own.empty:  # the layout would reserve infinite room for an empty line
                continue
            axes.plot(
                own.index, own, color=style.colour, marker=style.marker, lw=style.width, ms=6 if name == OURS else 4.5,
                mec=style.colour, clip_on=False, zorder=3,
            )  # fmt: skip
        titled(axes, f"Layer {layer}" if layer >= 0 else "Outside the layers")
        axes.set_xlim(0, None)
        axes.set_xticks(few(sorted(weights["edits"].unique())))
        axes.grid(axis="y", color=GRID, lw=0.8)
        log_if_far_apart(axes, values["relative_norm"], "y")
        if axes.get_yscale() == "linear":
            axes.set_ylim(0, None)
    for axes in grid[: len(shown)][-COLUMNS:]:
        axes.set_xlabel("edits", loc="right")
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    samples = [Line2D([], [], color=own.colour, marker=own.marker, lw=own.width, ms=6) for own in styles.values()]
    grid[len(shown)].legend(samples, list(styles), loc="center left", labelspacing=0.75, **PLAIN)
    return figure
