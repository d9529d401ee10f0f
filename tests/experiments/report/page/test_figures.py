"""The figures of a report page."""

from __future__ import annotations

from nse_plugin.experiments.report.plots import comparison as plots
from nse_plugin.experiments.report.plots import style
from nse_plugin.experiments.report.results import Results


def test_plots_are_written_and_have_a_panel_for_each_metric(finished) -> None:
    folder, _ = finished
    names = ("scores", "curves", "retention", "drift", "cost")
    assert {path.name for path in (folder / "plots").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    }
    assert style.INK in (folder / "plots" / "scores.svg").read_text(encoding="utf-8")  # a figure of its own
    results = Results.read(folder)
    figure = plots.curves(results.summary)
    assert figure is not None
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.lines}
    assert list(panels) == list(plots.CURVES.values())
    nse = panels["Efficacy"].lines[5]  # drawn last of the six, on top
    assert list(nse.get_xdata()) == [5, 10, 20]
    assert list(nse.get_ydata()) == [1.0, 1.0, 1.0]
