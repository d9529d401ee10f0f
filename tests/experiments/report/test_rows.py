"""Formatting numbers in table rows."""

from __future__ import annotations

from fabricated import results_folder
from report_pages import changed, report_of

from nse_plugin.experiments.report import rows
from nse_plugin.experiments.report.columns import ABSENT, TO


def test_an_unfinished_method_is_labelled(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT", "ROME"))
    for name in ("summary", "facts", "texts"):
        changed(folder, name, lambda f: f[(f["method"] != "ROME") | (f["edits"] < 20)])
    page = report_of(folder)
    assert "ROMEafter 10 edits" in [row[0] for row in page.tables[0]]


def test_an_end_below_zero_has_a_minus_sign() -> None:
    assert rows._interval(-5.4, 10.2) == f"\N{MINUS SIGN}5{TO}10"


def test_absent_metrics_are_dashes(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"))
    changed(folder, "summary", lambda f: f[f["metric"].isin(["efficacy", "perplexity"])])
    changed(folder, "facts", lambda f: f.drop(columns=["generalization", "specificity", "fluency", "age"]))
    page = report_of(folder)
    cells = page.row("NSE")
    assert cells[1:8] == [ABSENT] * 7
    assert ABSENT not in (cells[0], cells[8])
    assert {path.stem for path in (folder / "plots").iterdir()} == {"scores", "curves", "drift"}


def test_nothing_but_accuracy(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"))
    changed(folder, "summary", lambda f: f[f["metric"] == "rewrite_accuracy"])
    changed(folder, "facts", lambda f: f[["method", "edits", "case_id", "prompt", "target_true", "target_new"]])
    page = report_of(folder)
    assert page.row("NSE")[6] != ABSENT
    assert not (folder / "plots").exists()


def test_one_is_one_fact_and_one_edit(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"), checkpoints=(1,))
    assert "2 editing methods compared on 1 fact " in f"{report_of(folder).text} "
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"), checkpoints=(1, 5))
    for name in ("summary", "facts"):
        changed(folder, name, lambda f: f[(f["method"] != "MEMIT") | (f["edits"] == 1)])
    assert "after 1 edit" in report_of(folder).tables[0][3][0]
    assert "after 1 edits" not in report_of(folder).text
