"""The paper's table with its best values and significance tests, against values computed by hand."""

from __future__ import annotations

import pandas as pd
import pytest
from fabricated import FAILED, METHODS, results_folder
from report_pages import facts_with, report_of, summary_of
from scipy.stats import binomtest

from nse_plugin.evaluation.intervals import SCORE
from nse_plugin.experiments.report.columns import COLUMNS, ability_columns
from nse_plugin.experiments.report.summary import with_intervals
from nse_plugin.experiments.report.tables import FactTests, best_values, intervals, paper_table


def test_the_table_has_the_papers_scale(finished) -> None:
    folder, page = finished
    summary = pd.read_csv(folder / "summary.csv")
    own = summary[(summary["method"] == "ROME") & (summary["edits"] == 20)].set_index("metric")["value"]
    cells = page.row("ROME")
    for place, metric in enumerate(("efficacy", "generalization", "specificity", "fluency")):
        assert cells[place].startswith(f"{100 * own[metric]:.2f}")
    assert cells[8:] == [f"{own['perplexity']:.2f}", f"{own['seconds'] / 20:.2f}", f"{own['peak_memory_mib']:,.0f}"]


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
