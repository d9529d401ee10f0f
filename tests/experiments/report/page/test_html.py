"""The report page of a comparison, parsed again."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess

import pandas as pd
import pytest
from fabricated import ERROR, FAILED, METHODS, NOTE, add_thinking, results_folder
from report_pages import changed, report_of, summary_of
from rich.console import Console

from nse_plugin.evaluation.intervals import wilson
from nse_plugin.experiments.report.columns import ANSWERS, COLUMNS, SUBJECTS, TO
from nse_plugin.experiments.report.page.published import PUBLISHED
from nse_plugin.experiments.report.results import Results
from nse_plugin.experiments.report.screen import show_table
from nse_plugin.experiments.report.summary import with_intervals
from nse_plugin.experiments.report.tables import FactTests, best_values, intervals, paper_table


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
    shown = [column for column in COLUMNS if column not in (*ANSWERS, *SUBJECTS)]  # nobody asked for them
    assert re.findall("<dt>(.*?)</dt>", terms) == [column.title.removesuffix(" (MiB)") for column in shown]
    assert "Fluency and Consistency are not, but times 100" in finished[1].text


@pytest.mark.parametrize(
    ("metric", "group", "title", "term"),
    [
        (
            "retention_same_subject", "One subject", "Same subject",
            "of the facts whose subject was written again in a later round",
        ),
        ("answer_exact", "Whole answer", "Exact", "share of facts whose new answer is all that the model writes"),
    ],
)  # fmt: skip
def test_what_not_all_comparisons_measure_has_its_columns(tmp_path, no_plots, metric, group, title, term) -> None:
    folder = results_folder(tmp_path / "run")
    held = {"NSE": [1.0] * 10, "ROME": [1.0] + [0.0] * 9}
    last = {"method": [*held], "edits": 20, "metric": metric, "value": [1.0, 0.1]}

    def with_metric(facts: pd.DataFrame) -> pd.DataFrame:
        for method, values in held.items():
            rows = facts.index[(facts["method"] == method) & (facts["edits"] == 20)][:10]
            facts.loc[rows, metric] = values
        return facts

    changed(folder, "facts", with_metric)
    facts = pd.read_csv(folder / "facts.csv")
    changed(folder, "summary", lambda f: pd.concat([f, with_intervals(pd.DataFrame(last), facts)]))
    page = report_of(folder)
    assert page.tables[0][0][3] == group
    assert page.tables[0][1].index(f"{title}\N{NO-BREAK SPACE}↑") == 10
    low, high = (f"{100 * end:.0f}" for end in wilson(0.1, 10))
    assert page.row("ROME")[9] == f"10.00{low}{TO}{high}"
    assert f"{title} {term}" in page.text
    tests = pd.read_csv(folder / "tests.csv").set_index(["method", "metric"])
    assert tests.loc[("ROME", metric), "worse"] == 9
    assert title in (folder / "table.tex").read_text(encoding="utf-8")


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


def test_a_single_checkpoint_and_few_methods(tmp_path) -> None:
    folder = results_folder(tmp_path / "run", ("NSE", "MEMIT"), checkpoints=(20,))
    page = report_of(folder)
    assert [row[0] for row in page.tables[0][2:]] == ["before", "MEMIT", "NSE"]
    assert {path.stem for path in (folder / "plots").iterdir()} == {"scores", "retention", "drift", "cost"}
    assert "Over the number of edits" not in page.text


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
