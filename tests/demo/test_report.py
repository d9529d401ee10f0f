from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import matplotlib.image
import pandas as pd
import pytest
from rich.console import Console
from tiny import tiny_facts

from nse_plugin.demo import report
from nse_plugin.demo.report import Measurement, facts_frame, save_results, show_results, summary_frame
from nse_plugin.facts import Fact


@pytest.fixture
def facts() -> list[Fact]:
    return [dataclasses.replace(fact, target_true="Paris") for fact in tiny_facts()]


def scores(efficacy: list[float], **more: list[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "case_id": [10, 11, 12, 13],
            "efficacy": efficacy,
            "generalization": [0.5, 0.5, 1.0, 1.0],
            "specificity": [1.0, 1.0, 1.0, 0.0],
            "fluency": [None, 6.0, None, 5.0],
            **more,
        }
    )


@pytest.fixture
def measurements(facts: list[Fact]) -> list[Measurement]:
    edits = {"round": [1, 1, 2, 2], "status": ["done", "done", "done", "off_target"]}
    texts = {index: f"{facts[index].text} one two three" for index in (1, 3)}
    return [
        Measurement("before", 0, scores([0, 0, 0, 1]), texts),
        Measurement("NSE", 4, scores([1, 1, 1, 1], **edits), texts),
        Measurement("sequential MEMIT", 4, scores([0, 1, 1, 1], **edits), texts),
    ]


def test_summary_has_a_row_per_method_and_metric(measurements: list[Measurement]) -> None:
    summary = summary_frame(measurements)
    assert list(summary.columns) == ["method", "edits", "metric", "value"]
    values = summary.set_index(["method", "metric"])["value"]
    assert values["before", "efficacy"] == 0.25
    assert values["sequential MEMIT", "efficacy"] == values["NSE", "specificity"] == 0.75
    assert values["NSE", "fluency"] == 5.5
    assert summary.groupby("method")["edits"].first().to_dict() == {"before": 0, "NSE": 4, "sequential MEMIT": 4}


def test_facts_have_a_row_per_method_and_fact(measurements: list[Measurement], facts: list[Fact]) -> None:
    frame = facts_frame(measurements, facts, {10: "capital"})
    assert len(frame) == 3 * 4
    nse = frame[frame["method"] == "NSE"]
    assert nse["age"].tolist() == [1, 1, 0, 0]  # round 1 is the oldest
    assert nse["status"].tolist() == ["done", "done", "done", "off_target"]
    assert nse["prompt"].tolist() == [fact.text for fact in facts]
    assert nse["relation"].iloc[0] == "capital"
    assert frame[frame["method"] == "before"]["age"].isna().all()


def test_files_are_written(measurements: list[Measurement], facts: list[Fact], tmp_path: Path) -> None:
    save_results(tmp_path, measurements, facts, {})
    assert len(pd.read_csv(tmp_path / "summary.csv")) == 12
    assert len(pd.read_csv(tmp_path / "facts.csv")) == 12
    picture = matplotlib.image.imread(tmp_path / "efficacy_by_age.png")
    assert picture.shape[1] > 800
    assert picture[..., :3].std() > 0.05


def test_a_stop_leaves_nothing_half_written(
    measurements: list[Measurement], facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "plot_by_age", stop)
    with pytest.raises(KeyboardInterrupt):
        save_results(tmp_path, measurements, facts, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts.csv", "summary.csv"]


def test_the_plot_shows_each_methods_efficacy_by_age(
    measurements: list[Measurement], monkeypatch: Any, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self.axes[0]))
    report.plot_by_age(measurements, tmp_path / "plot.png")
    [axes] = drawn
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.get_lines()}
    assert lines["NSE, Efficacy"] == [(0, 1.0), (1, 1.0)]
    assert lines["sequential MEMIT, Efficacy"] == [(0, 1.0), (1, 0.5)]
    assert lines["sequential MEMIT, Generalization"] == [(0, 1.0), (1, 0.5)]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_the_screen_shows_the_table_and_the_sentences(measurements: list[Measurement], facts: list[Fact]) -> None:
    console = Console(file=io.StringIO(), width=120)
    show_results(console, measurements, facts)
    text = console.file.getvalue()
    assert [line.split("│")[1:3] for line in text.splitlines() if "│" in line] == [
        [" before           ", "    0.250 "],
        [" NSE              ", "    1.000 "],
        [" sequential MEMIT ", "    0.750 "],
    ]
    assert "the town is ... (Paris, edited to French)" in text
    assert text.count("one two ...") == 2 * 3
