"""Every mean over facts has an interval."""

from __future__ import annotations

import pandas as pd
import pytest
from fabricated import results_folder
from report_pages import changed, facts_with, report_of, summary_of

from nse_plugin.evaluation.intervals import SCORE, metric_intervals, wilson
from nse_plugin.experiments.report.columns import TO
from nse_plugin.experiments.report.summary import with_intervals


def test_the_summary_has_an_interval_beside_every_mean_over_facts(finished) -> None:
    summary, facts = (pd.read_csv(finished[0] / f"{name}.csv") for name in ("summary", "facts"))
    assert list(summary) == ["method", "edits", "metric", "value", "low", "high"]
    measured = summary[summary["low"].notna()]
    assert set(measured["metric"]) >= {"efficacy", "generalization", "specificity", SCORE, "rewrite_accuracy"}
    assert not set(measured["metric"]) & {"perplexity", "seconds", "peak_memory_mib"}
    assert (measured["low"] <= measured["value"] + 1e-5).all()
    assert (measured["value"] <= measured["high"] + 1e-5).all()
    nse = measured[(measured["method"] == "NSE") & (measured["edits"] == 20)].set_index("metric")
    assert nse.loc["efficacy", ["low", "high"]].to_list() == pytest.approx(list(wilson(1.0, 20)), rel=1e-4)
    own = facts[(facts["method"] == "NSE") & (facts["edits"] == 20)]
    expected = metric_intervals(own[["efficacy", "generalization", "specificity"]])[SCORE]
    assert nse.loc[SCORE, ["low", "high"]].to_list() == pytest.approx(list(expected), rel=1e-4)


def test_a_metric_that_comes_with_its_interval_is_one_row() -> None:
    values = {"ability_quiz": 0.5, "ability_quiz_low": 0.2, "ability_quiz_high": 0.8, "way_low": 3.0}
    table = with_intervals(summary_of(A=values), facts_with(A=[1.0]))
    assert table.drop(columns=["method", "edits"]).fillna("").to_numpy().tolist() == [
        ["ability_quiz", 0.5, 0.2, 0.8], ["way_low", 3.0, "", ""],
    ]  # fmt: skip


def test_a_summary_of_an_earlier_version_gets_its_intervals(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "ROME"))
    expected = report_of(folder).row("NSE")
    changed(folder, "summary", lambda f: f.drop(columns=["low", "high"]))
    assert report_of(folder).row("NSE") == expected


def test_intervals_end_where_the_metric_does(tmp_path, no_plots) -> None:
    """Student's interval of few facts does not; a folder of an earlier version has it in its summary.csv."""
    two = facts_with(A=[1.0, 1.0]).assign(consistency=[0.1, 0.5], fluency=[0.1, 5.0], locality_shift=[0.1, 2.0])
    values = dict(two[["consistency", "fluency", "locality_shift"]].mean())
    ends = {"ability_quiz": 0.9, "ability_quiz_low": 0.7, "ability_quiz_high": 1.1}
    table = with_intervals(summary_of(A=values | ends), two).set_index("metric")
    assert tuple(table.loc["consistency", ["low", "high"]]) == (0.0, 1.0)
    assert table.loc["fluency", "low"] == table.loc["locality_shift", "low"] == 0.0
    assert table.loc["fluency", "high"] > 5.0
    assert tuple(table.loc["ability_quiz", ["low", "high"]]) == (0.7, 1.0)
    folder = results_folder(tmp_path / "run", ("NSE",))
    rows = pd.DataFrame([("NSE", 20, "consistency", 0.293, -0.55, 1.14)], columns=[*summary_of(), "low", "high"])
    changed(folder, "summary", lambda f: pd.concat([f, rows]))
    assert report_of(folder).row("NSE")[4] == f"29.300{TO}100"
    assert r"29.30 {\scriptsize(0--100)}" in (folder / "table.tex").read_text(encoding="utf-8")
