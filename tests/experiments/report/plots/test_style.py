"""Ticks, colours and markers of all figures."""

from __future__ import annotations

import pandas as pd
import pytest
from report_pages import summary_of

from nse_plugin.experiments.report.plots import comparison as plots
from nse_plugin.experiments.report.plots import style


def labels_of(axis) -> list[str]:
    """What is written along an axis, within what it shows."""
    axis.axes.figure.draw_without_rendering()
    assert axis.get_offset_text().get_text() == ""
    low, high = sorted(axis.get_view_interval())
    return [
        label.get_text()
        for place, label in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        if low <= place <= high and label.get_text()
    ]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"before": 27.08961, "NSE": 27.08964}, ["27.08", "27.09", "27.10"]),  # all but equal
        ({"before": 27.1, "NSE": 27.3}, ["27.10", "27.15", "27.20", "27.25", "27.30"]),
        ({"before": 20.0, "NSE": 900.0}, ["20", "50", "100", "200", "500", "1,000"]),
        ({"before": 20.0, "NSE": 3e8}, ["100", "10,000", "1e6", "1e8"]),
    ],
)
def test_ticks_of_perplexity_are_whole_numbers(values, shown) -> None:
    of = {name: {"perplexity": value} for name, value in values.items()}
    first = summary_of(**of)
    first.loc[first["method"] == "NSE", ["edits", "value"]] = 5, values["before"]
    figure, drift = plots.curves(pd.concat([first, summary_of(**of)]).drop_duplicates()), plots.drift(summary_of(**of))
    assert figure is not None
    assert drift is not None
    assert labels_of(figure.axes[0].yaxis) == shown
    assert labels_of(drift.axes[0].xaxis) == shown


def test_checkpoints_that_are_close_together_are_not_all_labelled() -> None:
    assert style.few([1, 2, 5, 10, 100, 500, 1000, 2000]) == [100, 500, 1000, 2000]
    assert style.few(range(10, 210, 10)) == [40, 80, 120, 160, 200]
    assert style.few([5, 10, 20]) == [5, 10, 20]


def test_methods_keep_their_colours_and_every_colour_has_one_for_the_dark() -> None:
    many = [f"method {number}" for number in range(9)]
    styles = style.styles_of(["before", *many, "NSE"])
    assert styles["NSE"].colour == style.styles_of(["NSE"])["NSE"].colour
    assert len({style.colour for style in styles.values()}) == 10
    assert len({style.marker for style in styles.values()}) == 10
    used = {style.colour for style in styles.values()} | set(style.PARTS.values())
    assert used <= set(style.IN_THE_DARK)
