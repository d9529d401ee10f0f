"""The figures of a sweep."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from sweep_cells import RIGHT, WRONG, fabricated, found_in

from nse_plugin.experiments.report import sweep as sweep_report
from nse_plugin.experiments.report.columns import TO


def drawn_of(out: Path, monkeypatch, objective: str = "score") -> Figure:
    """A sweep's sweep.png as the figure it was."""
    figures = {}
    monkeypatch.setattr(sweep_report, "_save", lambda figure, file: figures.update({file.name: figure}))
    found_in(out, objective)
    figures["sweep.png"].draw_without_rendering()
    return figures["sweep.png"]


def names_along(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_values_stand_in_order_at_equal_distances_under_their_names(tmp_path, monkeypatch):
    windows = [[10, 11, 12, 13], [3, 4, 5], [3, 9], [10, 11]]
    for layers in windows:
        fabricated(tmp_path, RIGHT[:20] + WRONG[:10], layers=layers)
    figure = drawn_of(tmp_path, monkeypatch)
    assert len(figure.axes) == 4
    assert names_along(figure.axes[0].xaxis) == [f"3{TO}5", "3, 9", "10, 11", f"10{TO}13"]
    assert all(name.endswith("%") for name in names_along(figure.axes[0].yaxis))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        ends = [end for lines in axes.collections for line in lines.get_segments() for end in line[:, 1]]
        assert len(ends) == 8
        assert low < min(ends) < max(ends) < high
    assert "orange: best.yaml" in figure.get_suptitle()


def test_cells_of_the_same_value_stand_next_to_each_other(tmp_path, monkeypatch):
    for p, alpha, beta in itertools.product((0.5, 1.0), (1, 20), (15, 15000)):
        fabricated(tmp_path, RIGHT, p=p, alpha=alpha, mom2_update_weight=beta)
    figure = drawn_of(tmp_path, monkeypatch)
    assert len(figure.axes) == 12
    for axes in figure.axes:
        places = [place for line in axes.lines for place in line.get_xdata()]
        assert len(set(places)) == 8
        assert {round(place) for place in places} == {0, 1}


def test_a_grid_of_two_fields_is_a_heat_map_and_cells_all_over_are_not(tmp_path, monkeypatch):
    for p, bound in itertools.product((0.5, 1.0), (None, 4.0)):
        fabricated(tmp_path / "grid", RIGHT, p=p, upper_bound=bound)
    maps = drawn_of(tmp_path / "grid", monkeypatch)
    assert [len(axes.images) for axes in maps.axes] == [1, 1, 1, 1]
    assert sorted(names_along(maps.axes[0].xaxis) + names_along(maps.axes[0].yaxis)) == ["0.5", "1", "4", "null"]
    for place in range(6):
        fabricated(tmp_path / "learnt", RIGHT, p=0.5 + place / 20, alpha=1 + place)
    panels = drawn_of(tmp_path / "learnt", monkeypatch)
    assert [len(axes.images) for axes in panels.axes] == [0] * 8


@pytest.mark.parametrize("alphas", [(1,), (1, 2)])
def test_a_metric_that_was_not_measured_has_no_panel(tmp_path, monkeypatch, alphas):
    for p, alpha in itertools.product((0.5, 1.0), alphas):
        fabricated(tmp_path, RIGHT, metrics=("efficacy",), p=p, alpha=alpha)
    figure = drawn_of(tmp_path, monkeypatch, "efficacy")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Efficacy"]
