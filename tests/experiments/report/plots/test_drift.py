"""The drift figures show the values in their data frames."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.plots.drift import MOST_LAYERS, hidden_plane, weight_curves
from nse_plugin.experiments.report.plots.style import FAINT, IN_THE_DARK, styles_of

METHODS = ["NSE", "GRACE", "MEMIT", "ROME", "FT-L", "FT-W"]  # of the whole comparison


def points_of(methods: list[str]) -> pd.DataFrame:
    cloud = np.random.default_rng(0).normal(size=(30, 2))
    frames = [_points(BEFORE, 0, cloud)]
    for number, name in enumerate(methods, start=1):
        frames += [_points(name, 50, cloud + number), _points(name, 100, cloud + 10 * number)]
    return pd.concat(frames)


def _points(method: str, edits: int, cloud: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"method": method, "edits": edits, "x": cloud[:, 0], "y": cloud[:, 1]})


def weights_of_layers(layers: dict[str, list[int | None]], checkpoints=(10, 20, 40)) -> pd.DataFrame:
    """The relative norm is edits / 1000 + layer / 100 (no layer: 5)."""
    rows = [
        {
            "method": name, "edits": edits, "name": f"weight {layer}", "layer": layer,
            "relative_norm": edits / 1000 + (5 if layer is None else layer / 100), "rank": edits, "stable_rank": 1.5,
        }
        for name, own in layers.items() for edits in checkpoints for layer in own
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def test_a_panel_for_each_method_with_its_last_states_over_the_unedited_ones():
    methods = ["NSE", "MEMIT", "ROME", "FT-L"]
    points = points_of(methods)
    figure = hidden_plane(points, METHODS)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.collections}
    assert list(panels) == ["MEMIT, 100 edits", "ROME, 100 edits", "FT-L, 100 edits", "NSE, 100 edits"]
    before = points.loc[points["method"] == BEFORE, ["x", "y"]].to_numpy()
    for title, axes in panels.items():
        name = title.partition(",")[0]
        grey, own = axes.collections
        assert np.allclose(grey.get_offsets(), before)
        assert np.allclose(own.get_offsets(), before + 10 * (methods.index(name) + 1))
        colours = [to_hex(dots.get_facecolor()[0]) for dots in (grey, own)]
        assert colours == [FAINT, styles_of(METHODS)[name].colour]
        assert set(colours) <= set(IN_THE_DARK)
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2


def test_methods_may_have_made_different_numbers_of_edits():
    points = points_of(["NSE", "MEMIT"])
    figure = hidden_plane(points[~((points["method"] == "MEMIT") & (points["edits"] == 100))], METHODS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["MEMIT, 50 edits", "NSE, 100 edits"]


def test_nothing_edited_is_no_figure():
    assert hidden_plane(points_of([]), METHODS) is None


def test_a_broken_models_points_do_not_stop_the_figure(tmp_path):
    points = points_of(["NSE", "FT-L"])
    points.loc[points["method"] == "FT-L", ["x", "y"]] = math.nan
    hidden_plane(points, METHODS).savefig(tmp_path / "plane.png", dpi=30)
    assert (tmp_path / "plane.png").stat().st_size > 0


def test_a_panel_for_each_layer_with_a_line_for_each_method(tmp_path):
    figure = weight_curves(weights_of_layers({"NSE": [4, 5], "FT-L": [21, None]}), METHODS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of panels that do not fit
        figure.savefig(tmp_path / "weights.png", dpi=30)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.lines}
    assert list(panels) == ["Layer 4", "Layer 5", "Layer 21", "Outside the layers"]
    colours = {name: style.colour for name, style in styles_of(METHODS).items()}
    drawn = {
        title: {line.get_color(): dict(zip(*line.get_data(), strict=True)) for line in axes.lines}
        for title, axes in panels.items()
    }
    assert drawn["Layer 5"] == {colours["NSE"]: pytest.approx({10: 0.06, 20: 0.07, 40: 0.09})}
    assert drawn["Layer 21"] == {colours["FT-L"]: pytest.approx({10: 0.22, 20: 0.23, 40: 0.25})}
    assert drawn["Outside the layers"] == {colours["FT-L"]: pytest.approx({10: 5.01, 20: 5.02, 40: 5.04})}
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["NSE", "FT-L"]


def test_the_most_changed_matrix_counts_for_its_layer():
    frame = weights_of_layers({"NSE": [4]})
    other = frame.assign(name="other", relative_norm=frame["relative_norm"] * 3)
    (line,) = weight_curves(pd.concat([frame, other]), METHODS).axes[0].lines
    assert list(line.get_ydata()) == pytest.approx([0.15, 0.18, 0.24])


def test_of_many_layers_the_most_changed_are_shown():
    figure = weight_curves(weights_of_layers({"FT-W": list(range(30))}), METHODS)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.lines]
    assert titles == [f"Layer {layer}" for layer in range(30 - MOST_LAYERS, 30)]


def test_far_apart_changes_are_on_a_logarithmic_axis(tmp_path):
    frame = weights_of_layers({"NSE": [4], "FT-L": [4]})
    frame.loc[frame["method"] == "FT-L", "relative_norm"] *= 1000
    figure = weight_curves(frame, METHODS)
    assert figure.axes[0].get_yscale() == "log"
    figure.savefig(tmp_path / "weights.png", dpi=30)
    assert weight_curves(weights_of_layers({"NSE": [4]}), METHODS).axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("frame", [weights_of_layers({"NSE": [4]}, (10,)), weights_of_layers({"NSE": [4]}).head(0)])
def test_one_checkpoint_is_no_curve(frame):
    assert weight_curves(frame, METHODS) is None
