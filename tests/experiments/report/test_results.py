"""Results are read from their folder, or refused in one sentence."""

from __future__ import annotations

import pytest
from fabricated import results_folder
from report_pages import changed, report_of

from nse_plugin.experiments.report.page.html import write_report
from nse_plugin.experiments.report.results import ResultsError, in_order


def test_only_the_last_checkpoint_writes(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    changed(folder, "texts", lambda f: f.assign(text=f["prompt"] + " marker" + f["edits"].astype(str)))
    page = report_of(folder)
    assert page.text.count("marker20") == 5
    assert page.text.count("marker0") == 5
    assert "marker5" not in page.text


def test_order_of_methods() -> None:
    assert in_order(["NSE", "B", "before", "A", "B"]) == ["before", "B", "A", "NSE"]


@pytest.mark.parametrize("name", ["summary.csv", "facts.csv", "texts.csv", "run.json"])
def test_a_missing_file_is_one_clear_error(tmp_path, name) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    (folder / name).unlink()
    with pytest.raises(ResultsError, match=f"has no {name}: give the folder"):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_malformed_files_are_named(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    changed(folder, "summary", lambda f: f.drop(columns="metric"))
    with pytest.raises(ResultsError, match=r"summary\.csv has no column 'metric'"):
        write_report(folder)
    (folder / "summary.csv").write_text("", encoding="utf-8")
    with pytest.raises(ResultsError, match=r"summary\.csv is not a table"):
        write_report(folder)
    (folder / "summary.csv").write_text("method,edits,metric,value\n", encoding="utf-8")
    with pytest.raises(ResultsError, match=r"summary\.csv has no rows"):
        write_report(folder)
    results_folder(folder, ("NSE",))
    (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(ResultsError, match=r"run\.json is not JSON"):
        write_report(folder)
    (folder / "run.json").write_text('{"config": {}}', encoding="utf-8")
    with pytest.raises(ResultsError, match=r"run\.json has no 'versions'"):
        write_report(folder)


def test_answers_that_look_like_nothing_stay_words(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    changed(folder, "facts", lambda f: f.assign(target_new="NA", target_true="None"))
    assert "None → NA" in report_of(folder).text
