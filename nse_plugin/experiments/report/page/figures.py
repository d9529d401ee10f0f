"""Figures of a comparison, as SVG inside its page."""

from __future__ import annotations

import io
import re

import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from nse_plugin.experiments.report.columns import THREE_SCORES, ability_columns
from nse_plugin.experiments.report.plots import comparison as plots
from nse_plugin.experiments.report.plots import drift as drift_plots
from nse_plugin.experiments.report.plots.style import IN_THE_DARK
from nse_plugin.experiments.report.results import Results
from nse_plugin.experiments.report.tables import intervals


def figures_of(results: Results) -> dict[str, Figure]:
    """Draw the figures for which there are measurements, by name."""
    summary, facts = results.measured(results.summary), results.measured(results.facts)
    drawn = {
        "scores": plots.final_scores(summary, intervals(summary, THREE_SCORES)),
        "curves": plots.curves(summary),
        "retention": plots.retention(facts),
        "thinking": plots.curves(summary, _thinking_curves(summary)),
        "drift": plots.drift(summary),
        "cost": plots.cost(summary),
    }
    methods = list(summary["method"])
    if "states" in results.tables:
        drawn["states"] = drift_plots.hidden_plane(results.measured(results.tables["states"]), methods)
    if "weights" in results.tables:
        drawn["weights"] = drift_plots.weight_curves(results.measured(results.tables["weights"]), methods)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _thinking_curves(summary: pd.DataFrame) -> dict[str, str]:
    """Return the metrics of the second table that are shown as curves, with their titles."""
    says = {"generation_contains": "Says it freely", "portability_accuracy": "Portability"}
    drifts = {"next_token_kl": "KL of the next token (nats)", "hidden_cosine": "Hidden cosine"}
    return {**says, **{column.metric: column.title for column in ability_columns(summary)}, **drifts}


def as_svg(name: str, figure: Figure) -> str:
    """Convert a figure to SVG; the same figure gives the same text. name: salt of the ids, which makes them unique."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    return stream.getvalue()


def inline_svg(name: str, svg: str) -> Markup:
    """Prepare a figure's SVG for the page: ids get the prefix `name`, and colours become the page's CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour in IN_THE_DARK:
        svg = svg.replace(colour, f"var({css_variable(colour)})")
    return Markup(svg)  # matplotlib has escaped the names in it


def css_variable(colour: str) -> str:
    """Return the CSS variable for one of the plots' colours."""
    return f"--plot-{colour[1:]}"
