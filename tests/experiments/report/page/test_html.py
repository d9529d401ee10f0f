from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from fabricated import ERROR, FAILED, METHODS, NOTE, add_thinking, results_folder
from rich.console import Console
from scipy.stats import binomtest

from nse_plugin.evaluation.intervals import SCORE, metric_intervals, wilson
from nse_plugin.experiments.report import rows
from nse_plugin.experiments.report.columns import ABSENT, COLUMNS, SUBJECTS, TO, ability_columns
from nse_plugin.experiments.report.page import html as page
from nse_plugin.experiments.report.page.html import write_report
from nse_plugin.experiments.report.page.published import PUBLISHED, TITLES
from nse_plugin.experiments.report.page.texts import LENGTH
from nse_plugin.experiments.report.plots import comparison as plots
from nse_plugin.experiments.report.plots import style
from nse_plugin.experiments.report.results import Results, ResultsError, in_order
from nse_plugin.experiments.report.screen import show_table
from nse_plugin.experiments.report.summary import with_intervals
from nse_plugin.experiments.report.tables import FactTests, best_values, intervals, paper_table
from nse_plugin.facts.files import PUBLISHED as DATA_SETS

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page read back: fails on tags that do not match, and keeps tables, text, ids and outside addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.scripts = 0
        self.tables: list[list[list[str]]] = []
        self.best: list[str] = []
        self._marking = False
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.scripts += tag == "script"
        self.ids += [given["id"]] if "id" in given else []
        self.loaded += [given[name] for name in ("src", "href", "xlink:href", "data") if name in given]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._marking = given.get("class") == "best"

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._marking = False

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if self._marking:
            self.best.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, method: str, table: int = 0) -> list[str]:
        """The cells of a method's row."""
        (found,) = (row[1:] for row in self.tables[table] if row and row[0] == method)
        return found


def report_of(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def changed(folder, name, change) -> None:
    """Rewrite one of the tables."""
    frame = pd.read_csv(folder / f"{name}.csv")
    change(frame).to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with its report: read only."""
    folder = results_folder(tmp_path_factory.mktemp("results") / "run")
    return folder, report_of(folder)


@pytest.fixture
def no_plots(monkeypatch):
    """For what has nothing to do with them: most of a report's time goes into its plots."""
    monkeypatch.setattr(page, "figures_of", lambda results: {})


def facts_with(**methods: list[float]) -> pd.DataFrame:
    """As facts.csv, with the Efficacy of each method's facts."""
    frames = [
        pd.DataFrame({"method": name, "edits": 10, "case_id": range(len(own)), "efficacy": own})
        for name, own in methods.items()
    ]
    return pd.concat(frames)


def summary_of(**methods: dict[str, float]) -> pd.DataFrame:
    edits = {name: 0 if name == "before" else 10 for name in methods}
    rows = [(name, edits[name], metric, value) for name, own in methods.items() for metric, value in own.items()]
    return pd.DataFrame(rows, columns=["method", "edits", "metric", "value"])


def test_the_page_is_whole_and_needs_nothing_else(finished) -> None:
    _, page = finished
    assert page.tables
    assert page.scripts == 0
    assert all(address.startswith(("#", "data:")) for address in page.loaded)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.loaded if address[0] == "#"} <= set(page.ids)


def test_every_method_has_its_row_the_unedited_model_first_and_nse_last(finished) -> None:
    _, page = finished
    names = [row[0] for row in page.tables[0][2:]]
    assert names == ["before", *(name for name in METHODS if name != "NSE"), "NSE"]


def test_the_table_has_the_papers_scale(finished) -> None:
    folder, page = finished
    summary = pd.read_csv(folder / "summary.csv")
    own = summary[(summary["method"] == "ROME") & (summary["edits"] == 20)].set_index("metric")["value"]
    cells = page.row("ROME")
    for place, metric in enumerate(("efficacy", "generalization", "specificity", "fluency")):
        assert cells[place].startswith(f"{100 * own[metric]:.2f}")
    assert cells[8:] == [f"{own['perplexity']:.2f}", f"{own['seconds'] / 20:.2f}", f"{own['peak_memory_mib']:,.0f}"]


def test_a_failed_method_says_why_and_is_drawn_nowhere(finished) -> None:
    _, page = finished
    assert page.row(FAILED) == [f"failed: {ERROR}"]
    assert page.words.count(FAILED) == 2  # its row, and the published one


def test_a_failed_methods_checkpoints_do_not_count(tmp_path) -> None:
    folder = results_folder(tmp_path / "run")
    run = (folder / "run.json").read_text(encoding="utf-8")
    (folder / "run.json").write_text(run.replace('"status": "done"', '"status": "failed"', 1), encoding="utf-8")
    page = report_of(folder)
    assert page.row("NSE")[0].startswith("failed: no reason")
    assert page.words.count("NSE") == 1 + len(PUBLISHED)


def test_notes_and_published_figures_and_what_was_run_are_there(finished) -> None:
    _, page = finished
    assert NOTE in page.text
    assert "arXiv 2410.04045" in page.text
    assert "2,000 edits in rounds of 100" in page.text
    assert page.row("GRACE", table=2) == ["90.72", "0.09", "87.23", "632.43", "23.79"]
    assert "Model smollm2-135m Data counterfact.json Facts 20, in rounds of 5 Seed 0" in page.text
    assert "21 November 2026, 09:40 UTC, 26 minutes" in page.text
    assert "nse compare methods=" in page.text
    assert "torch 2.13.0" in page.text


def test_published_rows_are_complete() -> None:
    rows = [values for methods in PUBLISHED.values() for values in methods.values()]
    assert {len(values) for values in rows} == {len(TITLES)}


def test_five_texts_are_shown_under_every_method(finished) -> None:
    _, page = finished
    assert page.text.count("French → English") == 5
    assert page.text.count("grew up in a house where the language was …") == 5


def test_texts_come_from_the_final_model_cut_at_a_word_with_answers_marked(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"))
    long = " ".join(["Englishman English"] * 60)
    changed(folder, "texts", lambda f: f.assign(text=f["prompt"] + f" after {long}"))
    html = write_report(folder).read_text(encoding="utf-8")
    assert "Englishman" in html
    assert '<mark class="new">English</mark>' in html
    assert '<mark class="new">English</mark>man' not in html
    cut = re.sub("<[^>]+>", "", html[html.index(">after ") + 1 : html.index("…</dd>")])
    assert LENGTH - 20 < len(cut) <= LENGTH + 1
    assert cut.split()[-1] in ("English", "Englishman")


def test_only_the_last_checkpoint_writes(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    changed(folder, "texts", lambda f: f.assign(text=f["prompt"] + " marker" + f["edits"].astype(str)))
    page = report_of(folder)
    assert page.text.count("marker20") == 5
    assert page.text.count("marker0") == 5
    assert "marker5" not in page.text


def test_without_texts_that_section_is_left_out(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE",))
    changed(folder, "texts", lambda f: f[:0])
    assert "What the models write" not in report_of(folder).text


def test_everything_is_escaped(tmp_path) -> None:
    evil = "<script>alert(1)</script>"
    folder = results_folder(tmp_path / "run", ("NSE", "FT-W"))
    changed(folder, "texts", lambda f: f.assign(prompt=evil, text=evil + evil))
    changed(folder, "facts", lambda f: f.assign(target_new=evil, target_true="<b>"))
    for name in ("summary", "facts", "texts"):
        changed(folder, name, lambda f: f.replace({"method": {"FT-W": evil}}))
    run = (folder / "run.json").read_text(encoding="utf-8")
    (folder / "run.json").write_text(run.replace("FT-W", evil).replace(NOTE, evil), encoding="utf-8")
    page = report_of(folder)
    assert page.scripts == 0
    assert page.row(evil)
    assert page.text.count(evil) > 10


def test_best_values_by_hand_with_ties_and_directions() -> None:
    table = paper_table(
        summary_of(
            before={"efficacy": 1.0, "perplexity": 1.0},
            A={"efficacy": 0.90001, "perplexity": 30.0, "seconds": 20.0, "specificity": 0.5},
            B={"efficacy": 0.90002, "perplexity": 40.0, "seconds": 10.0},
            NSE={"efficacy": 0.8, "perplexity": 30.0, "seconds": 30.0},
        )
    )
    best = best_values(table)
    found = {title: list(best.index[best[title]]) for title in best}
    assert found == {
        "Edits": [],
        "Efficacy": ["A", "B"],  # equal as printed; the unedited model takes no part
        "Specificity": [],  # nothing to compare with
        "Perplexity": ["A", "NSE"],
        "Seconds a fact": ["B"],
    }
    assert table.loc["B", "Seconds a fact"] == 1.0


def test_best_values_are_marked_on_the_page(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT", "ROME"))
    table = paper_table(pd.read_csv(folder / "summary.csv"))
    page = report_of(folder)
    assert page.best[0] == "Shaded"
    expected = best_values(table, COLUMNS, FactTests(pd.read_csv(folder / "facts.csv")))
    assert len(page.best) - 1 == expected.to_numpy().sum() > best_values(table).to_numpy().sum()
    assert f"{table['Efficacy'].drop('before').max():.2f}" in page.best
    assert f"{table['Perplexity'].drop('before').min():.2f}" in page.best


def test_a_method_that_is_not_through_says_so_and_is_never_best() -> None:
    summary = summary_of(A={"efficacy": 0.5}, B={"efficacy": 0.6}, NSE={"efficacy": 1.0})
    summary.loc[summary["method"] == "NSE", "edits"] = 5
    assert list(best_values(paper_table(summary))["Efficacy"]) == [False, True, False]


def test_an_unfinished_method_is_labelled(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT", "ROME"))
    for name in ("summary", "facts", "texts"):
        changed(folder, name, lambda f: f[(f["method"] != "ROME") | (f["edits"] < 20)])
    page = report_of(folder)
    assert "ROMEafter 10 edits" in [row[0] for row in page.tables[0]]


def test_order_of_methods() -> None:
    assert in_order(["NSE", "B", "before", "A", "B"]) == ["before", "B", "A", "NSE"]


def test_every_method_that_is_not_significantly_worse_is_marked() -> None:
    right, none = [1.0] * 20, [0.0] * 20
    facts = facts_with(best=right, near=[0.0] * 5 + right[5:], worse=[0.0] * 6 + right[6:], bad=none)
    means = facts.groupby("method")["efficacy"].mean()
    summary = summary_of(**{name: {"efficacy": value, "seconds": 20 * value} for name, value in means.items()})
    table = paper_table(summary)
    marked = best_values(table, COLUMNS, FactTests(facts))
    assert set(marked.index[marked["Efficacy"]]) == {"best", "near"}  # p = 0.0625; of `worse` it is 0.03
    assert list(marked.index[marked["Seconds a fact"]]) == ["bad"]  # nothing to test
    assert list(best_values(table).index[best_values(table)["Efficacy"]]) == ["best"]


def test_general_ability_is_marked_where_intervals_overlap() -> None:
    ends = {"A": (0.24, 0.2, 0.3), "B": (0.35, 0.29, 0.4), "C": (0.2, 0.1, 0.28)}
    metrics = {name: dict(zip(("ability_quiz", "ability_quiz_low", "ability_quiz_high"), own, strict=True))
               for name, own in ends.items()}  # fmt: skip
    summary = with_intervals(summary_of(**metrics), facts_with(A=[1.0]))
    columns = ability_columns(summary)
    table = paper_table(summary, columns)
    marked = best_values(table, columns, FactTests(facts_with(A=[1.0])), intervals(summary, columns))["quiz"]
    assert list(marked.index[marked]) == ["A", "B"]


def test_questions_and_what_was_kept_of_them_stand_side_by_side() -> None:
    summary = summary_of(
        A=dict.fromkeys(("ability_a", "ability_b_c", "task_d", "ability_a_kept", "ability_b_c_kept"), 0.5)
    )
    assert [column.title for column in ability_columns(summary)] == ["a", "a, kept", "b c", "b c, kept"]


def test_every_method_is_tested_against_nse_on_the_same_facts(finished) -> None:
    folder, page = finished
    facts = pd.read_csv(folder / "facts.csv")
    last = facts[facts["edits"] == 20].pivot(index="case_id", columns="method", values="efficacy")
    tests = pd.read_csv(folder / "tests.csv")
    assert list(tests["method"].unique()) == [name for name in METHODS if name not in ("NSE", FAILED)]
    assert list(tests["metric"].unique()) == ["efficacy", "generalization", "specificity", SCORE]
    for test in tests[tests["metric"] == "efficacy"].to_dict("records"):
        better, worse = (last[test["method"]] > last["NSE"]).sum(), (last[test["method"]] < last["NSE"]).sum()
        assert (test["facts"], test["better"], test["worse"]) == (20, better, worse)
        p = binomtest(better, better + worse).pvalue if better + worse else 1.0
        assert test["p"] == pytest.approx(p, rel=1e-4)
        cells = page.row(test["method"], table=1)
        assert cells[0] == f"{better} : {worse}"
        assert cells[1].replace("\N{MINUS SIGN}", "-").startswith(f"{100 * test['difference']:.2f}")
        assert cells[2] == ("<0.001" if p < 0.001 else f"{p:.3f}")


def test_without_nse_or_another_method_there_is_no_test(tmp_path, no_plots) -> None:
    for methods in (("NSE",), ("MEMIT", "ROME")):
        page = report_of(results_folder(tmp_path / methods[0], methods))
        assert "fact by fact" not in page.text
        assert "better than NSE" not in page.text
        assert pd.read_csv(tmp_path / methods[0] / "tests.csv").empty


def test_facts_are_matched_by_their_number_not_their_place() -> None:
    facts = facts_with(A=[1.0, 0.0, 1.0], NSE=[1.0, 1.0, 0.0])
    test = FactTests(facts).of("efficacy", "A", "NSE")
    turned = pd.concat([facts[facts["method"] == "A"], facts[facts["method"] == "NSE"][::-1]])
    assert test is not None
    assert FactTests(turned).of("efficacy", "A", "NSE") == test
    assert (test.better, test.worse) == (1, 1)
    assert FactTests(facts).of("perplexity", "A", "NSE") is None


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


def test_an_end_below_zero_has_a_minus_sign() -> None:
    assert rows._interval(-5.4, 10.2) == f"\N{MINUS SIGN}5{TO}10"


def test_intervals_stand_below_the_values(finished) -> None:
    folder, page = finished
    results = Results.read(folder)
    around = intervals(results.summary, COLUMNS)
    titles = [column.title for column in COLUMNS]
    for title in ("Efficacy", "Generalization", "Specificity", "Score", "Accuracy", "Locality"):
        low, high = around["ROME", title]
        assert page.row("ROME")[titles.index(title)].endswith(f"{low:.0f}{TO}{high:.0f}")
    assert page.row("NSE")[0] == f"100.0084{TO}100"  # Wilson's of 20 of 20
    assert page.row("NSE")[titles.index("Perplexity")] == "31.90"


def test_the_table_for_latex_has_the_same_numbers(finished) -> None:
    folder, page = finished
    lines = (folder / "table.tex").read_text(encoding="utf-8").splitlines()
    rows = {line.split(" & ")[0]: line.removesuffix(r" \\").split(" & ")[1:] for line in lines if " & " in line}
    assert list(rows) == ["", "before", *(name for name in METHODS if name not in ("NSE", FAILED)), "NSE"]
    assert "Consistency" not in rows[""]  # nobody measured it
    assert rows["NSE"][0] == r"\textbf{100.00} {\scriptsize(84--100)}"
    assert rows["ROME"][2].startswith(page.row("ROME")[2][:5])
    assert not any(mark in "".join(lines) for mark in ("\N{EN DASH}", "\N{MINUS SIGN}", "∞"))


def test_names_are_escaped_for_latex(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "FT-W"))
    for name in ("summary", "facts", "texts"):
        changed(folder, name, lambda f: f.replace({"method": {"FT-W": "FT_100%"}}))
    write_report(folder)
    assert r"FT\_100\% & " in (folder / "table.tex").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"path": "/cache/counterfact.json"}, True),
        ({"path": "CounterFact_500.json"}, True),
        ({"path": "renamed.json", "sha256": DATA_SETS["counterfact"].sha256}, True),
        ({"path": "zsre_mend_eval.json", "sha256": "1"}, False),
        ({"path": "counterfact/facts.csv"}, False),
    ],
)
def test_published_figures_stand_only_beside_the_same_data(tmp_path, no_plots, data, shown) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "ROME"))
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps({**run, "data": data}), encoding="utf-8")
    assert ("Published figures" in report_of(folder).text) == shown


def test_captions_wrap_and_wide_things_scroll_by_themselves(finished) -> None:
    """A caption within its table is as wide as the table, and cut off on a narrow screen."""
    html = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert "<caption" not in html
    for wide in ("<table", "<svg"):
        before = [piece.rstrip().rsplit("<", 1)[-1] for piece in html.split(wide)[:-1]]
        assert all(tag.startswith('div class="wide') for tag in before), before


def test_every_metric_of_the_first_table_is_defined(finished) -> None:
    html = (finished[0] / "report.html").read_text(encoding="utf-8")
    terms = re.search(r'<dl class="terms">(.*?)</dl>', html, re.DOTALL)[1]
    shown = [column for column in COLUMNS if column not in SUBJECTS]  # CounterFact has a subject once
    assert re.findall("<dt>(.*?)</dt>", terms) == [column.title.removesuffix(" (MiB)") for column in shown]
    assert "Fluency and Consistency are not, but times 100" in finished[1].text


def test_facts_about_one_subject_have_their_columns(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run")
    held = {"NSE": [1.0] * 10, "ROME": [1.0] + [0.0] * 9}
    last = {"method": [*held], "edits": 20, "metric": "retention_same_subject", "value": [1.0, 0.1]}

    def with_retention(facts: pd.DataFrame) -> pd.DataFrame:
        for method, values in held.items():
            rows = facts.index[(facts["method"] == method) & (facts["edits"] == 20)][:10]
            facts.loc[rows, "retention_same_subject"] = values
        return facts

    changed(folder, "facts", with_retention)
    facts = pd.read_csv(folder / "facts.csv")
    changed(folder, "summary", lambda f: pd.concat([f, with_intervals(pd.DataFrame(last), facts)]))
    page = report_of(folder)
    assert page.tables[0][0][3] == "One subject"
    assert page.tables[0][1].index("Same subject\N{NO-BREAK SPACE}↑") == 10
    low, high = (f"{100 * end:.0f}" for end in wilson(0.1, 10))
    assert page.row("ROME")[9] == f"10.00{low}{TO}{high}"
    assert "Same subject of the facts whose subject was written again in a later round" in page.text
    tests = pd.read_csv(folder / "tests.csv").set_index(["method", "metric"])
    assert tests.loc[("ROME", "retention_same_subject"), "worse"] == 9
    assert r"Same subject" in (folder / "table.tex").read_text(encoding="utf-8")


BROWSER = shutil.which("chromium")
MEASURED = """<script>
document.querySelectorAll("details").forEach(one => one.open = true);
const letters = [...document.querySelectorAll("svg text")].map(one => one.getBoundingClientRect().height);
const boxes = [...document.querySelectorAll(".wide")].map(box => [
box.scrollWidth - box.clientWidth, parseFloat(getComputedStyle(box, "::before").paddingBottom)]);
const page = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = JSON.stringify({boxes, page, letters: letters.filter(height => height > 0)})</script></html>"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize(("width", "scrolls"), [(1200, False), (1400, False), (800, True), (500, True)])
def test_all_of_the_page_is_seen_or_said_to_scroll(finished, tmp_path, width, scrolls) -> None:
    page = tmp_path / "page.html"
    html = (finished[0] / "report.html").read_text(encoding="utf-8")
    page.write_text(html.replace("</html>", MEASURED), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--dump-dom", f"--window-size={width},900", f"--user-data-dir={tmp_path}"]
    shown = subprocess.run([BROWSER, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(re.search("<title>(.*?)</title>", shown.stdout)[1])
    assert found["page"] == 0
    assert min(found["letters"]) > 11
    assert (found["boxes"][0][0] > 0) == scrolls  # the first table
    for hidden, height_of_hint in found["boxes"]:
        assert (hidden > 0) == (height_of_hint > 10)


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


def test_infinite_and_huge_perplexity(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT", "ROME"))

    def burst(frame):
        broken = (frame["metric"] == "perplexity") & (frame["edits"] == 20)
        frame.loc[broken & (frame["method"] == "MEMIT"), "value"] = np.inf
        frame.loc[broken & (frame["method"] == "ROME"), "value"] = 3.21e9
        return frame

    changed(folder, "summary", burst)
    page = report_of(folder)
    assert page.row("MEMIT")[8] == "∞"
    assert page.row("ROME")[8] == "3.2e9"


def test_a_single_checkpoint_and_few_methods(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"), checkpoints=(20,))
    page = report_of(folder)
    assert [row[0] for row in page.tables[0][2:]] == ["before", "MEMIT", "NSE"]
    assert {path.stem for path in (folder / "plots").iterdir()} == {"scores", "retention", "drift", "cost"}
    assert "Over the number of edits" not in page.text


def test_one_is_one_fact_and_one_edit(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"), checkpoints=(1,))
    assert "2 editing methods compared on 1 fact " in f"{report_of(folder).text} "
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"), checkpoints=(1, 5))
    for name in ("summary", "facts"):
        changed(folder, name, lambda f: f[(f["method"] != "MEMIT") | (f["edits"] == 1)])
    assert "after 1 edit" in report_of(folder).tables[0][3][0]
    assert "after 1 edits" not in report_of(folder).text


def test_a_single_round_has_no_ages(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("MEMIT",), checkpoints=(5,))
    page = report_of(folder)
    assert "Do old edits hold?" not in page.text
    assert len(page.best) == 1  # the word that explains the shading: one method is not the best of anything


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


def test_retention_is_efficacy_by_age_of_the_final_model(finished) -> None:
    results = Results.read(finished[0])
    figure = plots.retention(results.facts)
    assert figure is not None
    facts = results.facts
    memit = facts[(facts["method"] == "MEMIT") & (facts["edits"] == 20)]
    numbers = [text.get_text() for text in figure.axes[0].texts][:4]  # its row is the first
    assert numbers == [f"{100 * memit.loc[memit['age'] == age, 'efficacy'].mean():.0f}" for age in range(4)]


def test_costs_parts_add_up_to_the_seconds_of_a_fact(finished) -> None:
    results = Results.read(finished[0])
    figure = plots.cost(results.summary)
    assert figure is not None
    bars = figure.axes[0].containers
    assert [container.get_label() for container in bars] == ["values", "update", "other"]
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    nse = [container[rows.index("NSE")].get_width() for container in bars]
    assert nse == pytest.approx([2.6, 0.6, 0.9])
    rome = [container[rows.index("ROME")].get_width() for container in bars]
    assert rome == pytest.approx([0, 0, 5.2])


def test_methods_keep_their_colours_and_every_colour_has_one_for_the_dark() -> None:
    many = [f"method {number}" for number in range(9)]
    styles = style.styles_of(["before", *many, "NSE"])
    assert styles["NSE"].colour == style.styles_of(["NSE"])["NSE"].colour
    assert len({style.colour for style in styles.values()}) == 10
    assert len({style.marker for style in styles.values()}) == 10
    used = {style.colour for style in styles.values()} | set(style.PARTS.values())
    assert used <= set(style.IN_THE_DARK)


def test_the_table_on_screen(finished) -> None:
    console = Console(width=80)
    with console.capture() as capture:
        show_table(console, finished[0])
    shown = capture.get()
    assert "Eff." in shown
    assert "Con." not in shown  # nobody measured it
    assert "…" not in shown  # all of it fits
    for method in METHODS:
        assert method in shown
    assert f"{FAILED}: failed: {ERROR}" in shown
    assert NOTE in shown


@pytest.mark.parametrize(("terminal", "width"), [(False, 40), (True, 40), (True, 80)])
def test_no_number_of_the_table_on_screen_is_cut(tmp_path, terminal, width) -> None:
    folder = results_folder(tmp_path / "run")
    consistency = pd.DataFrame({"method": METHODS[:-1], "edits": 20, "metric": "consistency", "value": 0.3141})
    changed(folder, "summary", lambda f: pd.concat([f, consistency]))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, no_color=True)
    show_table(console, folder)
    (row,) = (line for line in console.file.getvalue().splitlines() if "ROME" in line)
    wanted = Results.read(folder)
    table = paper_table(wanted.measured(wanted.summary)).loc["ROME"]
    shown = [column.shown(table[column.title]) for column in COLUMNS if column.short and column.title in table]
    assert len(shown) == 8
    assert all(number in row for number in shown), row


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


@pytest.mark.filterwarnings("error:constrained_layout")  # of figures that do not fit
def test_what_the_edited_model_still_can(tmp_path) -> None:
    folder = results_folder(tmp_path / "run")
    plain = report_of(folder)
    assert "thinking" not in plain.ids
    add_thinking(folder)
    page = report_of(folder)
    assert "thinking" in page.ids
    table = next(number for number, rows in enumerate(page.tables) if "Says it" in " ".join(rows[1]))
    titles = [title.split("\N{NO-BREAK SPACE}")[0].strip() for title in page.tables[table][1][1:]]
    assert titles == [
        "Efficacy", "Says it", "mmlu sample", "mmlu sample, kept", "cmmlu sample", "cmmlu sample, kept", "Perplexity",
        "KL (nats)", "Hidden cosine", "Weights",
    ]  # fmt: skip
    summary = pd.read_csv(folder / "summary.csv")
    final = summary[(summary["method"] == "ROME") & (summary["edits"] == 20)].set_index("metric")["value"]
    row = dict(zip(titles, page.row("ROME", table), strict=True))
    assert row["mmlu sample"] == f"{100 * final['ability_mmlu_sample']:.2f}22\N{EN DASH}30"
    assert row["mmlu sample, kept"] == f"{100 * final['ability_mmlu_sample_kept']:.2f}"
    assert row["KL (nats)"] == f"{final['next_token_kl']:.3f}"
    assert row["Weights"] == f"{100 * final['weight_change']:.2f}"
    assert {path.stem for path in (folder / "plots").glob("*.png")} >= {"thinking", "states", "weights"}
    assert page.text.count("Figure") == plain.text.count("Figure") + 3


def test_what_was_asked_in_a_chat(tmp_path, no_plots) -> None:
    folder = results_folder(tmp_path / "run")
    assert "chat" not in report_of(folder).ids
    rows = [
        {"method": name, "edits": 0 if name == "before" else 20, "metric": metric, "value": value}
        for number, name in enumerate(("before", *METHODS[:-1]))
        for metric, value in (("chat_states_new", number / 8), ("chat_names_old", 1 - number / 8))
    ]
    changed(folder, "summary", lambda f: pd.concat([f, pd.DataFrame(rows)]))
    page = report_of(folder)
    assert "chat" in page.ids
    table = next(number for number, rows in enumerate(page.tables) if "States new" in " ".join(rows[1]))
    titles = [title.split("\N{NO-BREAK SPACE}")[0].strip() for title in page.tables[table][1][1:]]
    assert titles == ["Efficacy", "Accuracy", "States new", "Names old"]
    assert page.row("ROME", table)[2:] == ["37.50", "62.50"]
    console = Console(file=io.StringIO(), width=80, no_color=True)
    show_table(console, folder)
    first, second = console.file.getvalue().split("Asked in plain text and in a chat")
    assert "Old" not in first
    (row,) = (line for line in second.splitlines() if "ROME" in line)
    assert [cell.strip() for cell in row.split("│")[4:6]] == ["37.50", "62.50"]
