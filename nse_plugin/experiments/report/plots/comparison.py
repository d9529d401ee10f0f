"""Figures of a comparison, one function per figure, from the frames of `nse_plugin.experiments.report.results`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import OURS, THREE_SCORES
from nse_plugin.experiments.report.plots.style import (
    FAINT,
    GRID,
    INK,
    PAPER,
    PARTS,
    PLAIN,
    few,
    log_if_far_apart,
    new_figure,
    plain_numbers,
    styles_of,
    titled,
)
from nse_plugin.experiments.report.results import at_last_checkpoint, in_order

_HEAT = LinearSegmentedColormap.from_list("efficacy", ["#f4efe4", "#b9d3dd", "#5d9cc0", "#1f6391", "#0b3557"])
_ON_LIGHT, _ON_DARK = "#16202a", "#fefefe"  # numbers in the heat map, the same on light and dark pages
_MOST_NUMBERED = 15  # ages; with more, the cells are too small for numbers
CURVES = {
    "efficacy": "Efficacy",
    "generalization": "Generalization",
    "specificity": "Specificity",
    "score": "Score (harmonic mean)",
    "perplexity": "Perplexity of held-out text",
}
NO_SHARES = ("next_token_kl", "hidden_cosine")
DRIFT = {
    "locality_agreement": "Locality agreement\n(share of answers unchanged)",
    "locality_shift": "Locality shift\n(nats, |change of log P|)",
    "perplexity": "Perplexity\nof held-out text",
}


def curves(summary: pd.DataFrame, titles: Mapping[str, str] = CURVES) -> Figure | None:
    """Plot each metric of `titles` over the number of edits, with one line per method. Returns None if there are fewer
    than two checkpoints, or none of the metrics was measured."""
    edited = summary[summary["method"] != BEFORE]
    shown = {metric: title for metric, title in titles.items() if metric in set(edited["metric"])}
    if edited["edits"].nunique() < 2 or not shown:
        return None
    styles = styles_of(list(edited["method"]))
    panels = len(shown) + 1
    figure, grid = new_figure(10, 2.9 * -(-panels // 3), rows=-(-panels // 3), columns=3)
    for axes, (metric, title) in zip(grid, shown.items(), strict=False):
        values = summary[summary["metric"] == metric]
        for name, style in reversed(styles.items()):  # NSE on top
            own = values[values["method"] == name].sort_values("edits")
            if own.empty:  # an empty line without clipping makes the layout collapse
                continue
            axes.plot(
                own["edits"], own["value"], color=style.colour, marker=style.marker, lw=style.width,
                ms=6 if name == OURS else 4.5, mec=style.colour, clip_on=False, zorder=3,
            )  # fmt: skip
        for before in values.loc[values["method"] == BEFORE, "value"]:
            axes.axhline(before, color=FAINT, lw=1.1, ls=(0, (4, 3)), zorder=2)
        titled(axes, title)
        axes.set_xlabel("edits", loc="right")
        axes.set_xlim(0, None)
        axes.set_xticks(few(sorted(edited["edits"].unique())))
        axes.grid(axis="y", color=GRID, lw=0.8)
        if metric == "perplexity":
            log_if_far_apart(axes, values["value"], "y")
        elif metric in NO_SHARES:
            plain_numbers(axes, values["value"], "y")
        else:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    samples = [Line2D([], [], color=own.colour, marker=own.marker, lw=own.width, ms=6) for own in styles.values()]
    samples.append(Line2D([], [], color=FAINT, lw=1.1, ls=(0, (4, 3))))
    grid[len(shown)].legend(samples, [*styles, "unedited model"], loc="center left", labelspacing=0.75, **PLAIN)
    return figure


def final_scores(summary: pd.DataFrame, intervals: Mapping[tuple[str, str], tuple[float, float]]) -> Figure | None:
    """Plot Efficacy, Generalization and Specificity of each method as dots, with their intervals. Returns None if none
    of the three was measured. intervals: in percent, by method and column title."""
    last = at_last_checkpoint(summary)
    shown = [column for column in THREE_SCORES if column.metric in set(last["metric"])]
    if not shown:
        return None
    methods, styles = in_order(last["method"]), styles_of(list(last["method"]))
    figure, grid = new_figure(10, 0.9 + 0.3 * len(methods), rows=1, columns=len(shown), share_y=True)
    for axes, column in zip(grid, shown, strict=True):
        values = last[last["metric"] == column.metric].set_index("method")["value"] * column.scale
        for row, name in enumerate(methods):
            colour = styles[name].colour if name in styles else FAINT
            if (name, column.title) in intervals:
                axes.hlines(row, *intervals[name, column.title], color=colour, lw=2.2, alpha=0.45, zorder=2)
            if name in values:
                axes.plot(values[name], row, "o", color=colour, ms=7, clip_on=False, zorder=3)
        titled(axes, column.title)
        axes.set_xlim(0, 100)
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.xaxis.set_major_formatter(PercentFormatter(100))
        _method_rows(axes, methods)
    return figure


def retention(facts: pd.DataFrame) -> Figure | None:
    """Plot Efficacy on the final model by the age of the edit (rounds written since), with one row per method.

    facts: as in facts.csv. Returns None if Efficacy was not measured, or if all edits have the same age.
    """
    edited = at_last_checkpoint(facts[facts["method"] != BEFORE])
    if not {"efficacy", "age"} <= set(edited) or edited["age"].nunique() < 2:
        return None
    by_age = edited.pivot_table(index="method", columns="age", values="efficacy").sort_index(axis=1)
    by_age = by_age.reindex([name for name in in_order(edited["method"]) if name in by_age.index])
    ages = [int(age) for age in by_age.columns]
    figure, (axes,) = new_figure(10, 1.2 + 0.36 * len(by_age), rows=1, columns=1)
    mesh = axes.pcolormesh(by_age.to_numpy(), cmap=_HEAT, vmin=0, vmax=1, edgecolors=PAPER, lw=1.5)
    if len(ages) <= _MOST_NUMBERED:
        for (row, column), share in np.ndenumerate(by_age.to_numpy()):
            if not np.isnan(share):
                colour = _ON_DARK if share > 0.55 else _ON_LIGHT
                axes.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    labelled = range(0, len(ages), -(-len(ages) // _MOST_NUMBERED))
    axes.set_xticks([column + 0.5 for column in labelled], [str(ages[column]) for column in labelled])
    axes.set_xlabel("age of the edit: rounds written after its own")
    _method_rows(axes, list(by_age.index), offset=0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, aspect=16, format=PercentFormatter(1), ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.set_label("Efficacy", color=FAINT, size=9)
    bar.ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
    return figure


def drift(summary: pd.DataFrame) -> Figure | None:
    """Plot how far each method's final model is from the unedited one: locality and perplexity, with a dashed line at
    the unedited model's value. Returns None if none of these was measured."""
    last = at_last_checkpoint(summary)
    edited = last[last["method"] != BEFORE]
    shown = {metric: title for metric, title in DRIFT.items() if metric in set(edited["metric"])}
    if not shown:
        return None
    methods, styles = in_order(edited["method"]), styles_of(list(edited["method"]))
    figure, grid = new_figure(10, 1.2 + 0.3 * len(methods), rows=1, columns=len(shown), share_y=True)
    for axes, (metric, title) in zip(grid, shown.items(), strict=True):
        values = last[last["metric"] == metric].set_index("method")["value"]
        start = values.get(BEFORE, {"locality_agreement": 1.0, "locality_shift": 0.0}.get(metric))
        if start is not None:
            axes.axvline(start, color=FAINT, lw=1.1, ls=(0, (4, 3)), zorder=1, clip_on=False)
        for row, name in enumerate(methods):
            if name in values and np.isfinite(values[name]):
                if start is not None:
                    axes.hlines(row, start, values[name], color=styles[name].colour, lw=2, alpha=0.4, zorder=2)
                axes.plot(values[name], row, "o", color=styles[name].colour, ms=7, clip_on=False, zorder=3)
        titled(axes, title)
        if metric == "locality_agreement":
            axes.set_xlim(min(0.5, values.min() - 0.05), 1)
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        elif metric == "locality_shift":
            plain_numbers(axes, values, "x")
            axes.set_xlim(0, None)
        else:
            log_if_far_apart(axes, values, "x")
        _method_rows(axes, methods)
    return figure


def cost(summary: pd.DataFrame) -> Figure | None:
    """Plot the editing time in seconds per fact, by part, and the peak memory of each method. Returns None if neither
    was measured.

    The axes are linear, since lengths on a logarithmic axis do not add up; each bar is labelled with its number.
    """
    last = at_last_checkpoint(summary)
    edited = last[last["method"] != BEFORE]
    wide = edited.pivot_table(index="method", columns="metric", values="value", aggfunc="last")
    methods = in_order(edited["method"])
    wide = wide.reindex(methods)
    edits = edited.groupby("method")["edits"].max().reindex(methods)
    shown = [metric for metric in ("seconds", "peak_memory_mib") if metric in wide]
    if not shown:
        return None
    figure, grid = new_figure(
        10, 1.15 + 0.34 * len(methods), rows=1, columns=len(shown), share_y=True, first_wider=True
    )
    for axes, metric in zip(grid, shown, strict=True):
        if metric == "seconds":
            total = wide["seconds"] / edits
            for part, (left, width) in _parts(wide, edits).items():
                axes.barh(range(len(methods)), width, left=left, height=0.62, color=PARTS[part], label=part, zorder=3)
            titled(axes, "Seconds a fact")
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, handlelength=1, handleheight=1, **PLAIN
            )
        else:
            total = wide[metric] / 1024
            axes.barh(range(len(methods)), total, height=0.62, color=FAINT, zorder=3)
            titled(axes, "Peak memory (GiB)")
        for row, value in enumerate(total):
            if not np.isnan(value):
                axes.annotate(
                    f"{value:,.{2 if value < 100 else 0}f}", (value, row), (4, 0), textcoords="offset points",
                    va="center", color=INK, size=9,
                )  # fmt: skip
        axes.set_xlim(0, 1.14 * total.max() or 1)
        _method_rows(axes, methods)
        axes.tick_params(axis="y", pad=4)
    return figure


def _parts(wide: pd.DataFrame, edits: pd.Series[int]) -> dict[str, tuple[pd.Series[float], pd.Series[float]]]:
    """Return start and length of each part's bars, in seconds per fact; time of no other part is `other`."""
    left = pd.Series(0.0, index=wide.index)
    found = {}
    for part in PARTS:
        if part == "other":
            width = (wide["seconds"] / edits - left).clip(lower=0).fillna(0)
        elif f"seconds_{part}" in wide:
            width = (wide[f"seconds_{part}"] / edits).fillna(0)
        else:
            continue
        if width.any():
            found[part] = (left.copy(), width)
        left = left + width
    return found


def _method_rows(axes: Axes, methods: Sequence[str], offset: float = 0.0) -> None:
    """Write the names of the methods at the left of the axes, the first at the top."""
    axes.set_yticks(np.arange(len(methods)) + offset, list(methods))
    axes.set_ylim(len(methods) - 0.5 + offset, -0.5 + offset)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == OURS else "normal")
