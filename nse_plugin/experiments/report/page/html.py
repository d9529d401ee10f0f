"""The report of a comparison: a self-contained HTML page, its plots as PNG and SVG, its table for LaTeX, and its paired
tests."""

from __future__ import annotations

import json
from datetime import datetime
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from nse_plugin.evaluation.intervals import Comparison
from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.report.columns import ABSENT, ANSWERS, OURS, SUBJECTS, TESTED
from nse_plugin.experiments.report.page import published
from nse_plugin.experiments.report.page.figures import as_svg, css_variable, figures_of, inline_svg
from nse_plugin.experiments.report.page.latex import latex_table
from nse_plugin.experiments.report.page.texts import texts_of
from nse_plugin.experiments.report.plots.style import IN_THE_DARK
from nse_plugin.experiments.report.results import Results, at_last_checkpoint, in_order
from nse_plugin.experiments.report.rows import chat_table, columns_of, rows_of, thinking_table, title_of, ungrouped
from nse_plugin.experiments.report.tables import FactTests
from nse_plugin.facts.files import PUBLISHED
from nse_plugin.support.files import written_whole
from nse_plugin.support.suggestions import number_of

COUNTERFACT = "counterfact"
_DETAILS = ("config", "versions", "host", "data", "model", "methods")  # keys of run.json shown at the end of the page


def write_report(folder: Path) -> Path:
    """Write report.html, table.tex, tests.csv, plots/*.png and plots/*.svg into a comparison's folder, from its
    summary.csv, facts.csv, texts.csv and run.json, and return the path of report.html. Raises ResultsError if one of
    these is missing or malformed."""
    results = Results.read(folder)
    figures = {name: (figure, as_svg(name, figure)) for name, figure in figures_of(results).items()}
    for name, (figure, svg) in figures.items():
        figure.set_layout_engine("none")  # already laid out for the SVG: layout takes half the time of a figure
        with written_whole(folder / "plots" / f"{name}.png") as path:
            figure.savefig(path, dpi=160, facecolor="white")
        _write(folder / "plots" / f"{name}.svg", svg)
    columns, tests = columns_of(results), _tests(results)
    rows = rows_of(results, ungrouped(columns))
    _write(folder / "table.tex", latex_table(rows))
    listed = [(name, OURS, metric, *test) for name, own in tests.items() for metric, test in own.items()]
    table = pd.DataFrame(listed, columns=["method", "against", "metric", *Comparison._fields])
    _write(folder / "tests.csv", table.to_csv(index=False, float_format="%.6g"))
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(template).render(
        title=title_of(results),
        about=_about(results),
        columns=columns,
        about_answers=ANSWERS in columns.values(),
        about_subjects=SUBJECTS in columns.values(),
        rows=rows,
        tested=[column for column in TESTED if any(column.metric in own for own in tests.values())],
        tests={name: {metric: _shown_test(test) for metric, test in own.items()} for name, own in tests.items()},
        chat=chat_table(results),
        thinking=thinking_table(results),
        notes=results.notes,
        published=published if _is_counterfact(results) else None,
        figures={name: inline_svg(name, svg) for name, (_, svg) in figures.items()},
        texts=texts_of(results),
        everything=_everything(results),
        versions=results.run["versions"],
        details={key: json.dumps(results.run[key], indent=2, ensure_ascii=False) for key in _DETAILS},
        number_of=number_of,
        ours=OURS,
        before=BEFORE,
        absent=ABSENT,
        light={css_variable(colour): colour for colour in IN_THE_DARK},
        dark={css_variable(colour): dark for colour, dark in IN_THE_DARK.items()},
    )
    return _write(folder / "report.html", html)


def _write(file: Path, text: str) -> Path:
    with written_whole(file) as path:
        path.write_text(text, encoding="utf-8")
    return file


def _tests(results: Results) -> dict[str, dict[str, Comparison]]:
    """Test every method against NSE in the metrics of `TESTED`; empty if NSE or all other methods are missing."""
    methods = [name for name in results.methods if results.absence(name) is None and name not in (BEFORE, OURS)]
    tests = FactTests(results.measured(results.facts), TESTED)
    found = {name: tests.between(name, OURS) for name in methods}
    return {name: own for name, own in found.items() if own}


def _shown_test(test: Comparison) -> dict[str, str]:
    """Format a test: facts better and worse, difference in points, its interval, and p."""
    low, difference, high = (TESTED[0].shown(100 * value) for value in (test.low, test.difference, test.high))
    return {
        "facts": ABSENT if np.isnan(test.better) else f"{test.better:.0f} : {test.worse:.0f}",
        "difference": difference,
        "interval": "" if np.isnan(test.low) else f"{low} to {high}",
        "p": "<0.001" if test.p < 0.001 else f"{test.p:.3f}",
    }


def _is_counterfact(results: Results) -> bool:
    """Return whether the facts are from the data set on which the paper's numbers were measured."""
    data = results.run["data"]
    return COUNTERFACT in Path(data["path"]).name.lower() or data.get("sha256") == PUBLISHED[COUNTERFACT].sha256


def _about(results: Results) -> dict[str, str]:
    """Describe the run, as text by label."""
    run, config = results.run, results.run["config"]
    rounds = sorted({choice["round"] for choice in config["methods"].values()})
    skipped = run["data"].get("skipped")
    left_out = f" ({number_of(skipped, 'malformed record')} left out)" if skipped else ""
    minutes = number_of(round(run["seconds"] / 60), "minute")
    about = {
        "Model": run["model"]["name"],
        "Data": Path(run["data"]["path"]).name + left_out,
        "Facts": f"{results.facts['case_id'].nunique()}, in rounds of {', '.join(map(str, rounds))}",
        "Seed": str(config["seed"]),
        "Run": f"{datetime.fromisoformat(run['started']):%d %B %Y, %H:%M %Z}, {minutes}",
    }
    return about | ({"Command": run["command"]} if "command" in run else {})


def _everything(results: Results) -> pd.DataFrame:
    """Format every metric of every method at its last checkpoint, with one row per metric."""
    last = at_last_checkpoint(results.measured(results.summary))
    wide = last.pivot_table(index="metric", columns="method", values="value", aggfunc="last", sort=False)
    return wide[in_order(wide.columns)].map(lambda value: ABSENT if pd.isna(value) else f"{value:.5g}")
