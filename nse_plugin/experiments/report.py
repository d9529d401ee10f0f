"""The report of a comparison: one HTML page that needs nothing else, its plots as PNG and SVG, its table on screen and
for LaTeX, and its paired tests."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nse_plugin.evaluation.intervals import Comparison
from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.experiments import drift_plots, plots, published
from nse_plugin.experiments.plan import BEFORE
from nse_plugin.experiments.tables import (
    ABSENT,
    AS_IN_THE_PAPER,
    ASKED_IN_CHAT,
    ASKED_PLAINLY,
    BESIDE_IT,
    COLUMNS,
    COST,
    DRIFTS,
    EDITS,
    FOLLOWS,
    MINUS,
    OURS,
    SAYS,
    SUBJECTS,
    TESTED,
    THREE_SCORES,
    TO,
    Column,
    FactTests,
    Results,
    ability_columns,
    at_last_checkpoint,
    best_values,
    in_order,
    intervals,
    paper_table,
)
from nse_plugin.facts.files import PUBLISHED
from nse_plugin.support.files import written_whole
from nse_plugin.support.suggestions import number_of

COUNTERFACT = "counterfact"
SHOWN = 5  # prompts whose texts are shown
LENGTH = 320  # characters of each text
_NO_LIMIT = 10_000  # columns of a screen
_DETAILS = ("config", "versions", "host", "data", "model", "methods")  # of run.json, at the end of the page


@dataclass(frozen=True)
class _Cell:
    """A number of the table as text; interval: the small print below it."""

    text: str
    best: bool
    interval: str


@dataclass(frozen=True)
class _Row:
    """cells: a method's numbers by the titles of the columns, in their order. absence: why there are none. edits: where
    fewer than the others have."""

    method: str
    cells: dict[str, _Cell]
    absence: str | None = None
    edits: int | None = None


def write_report(folder: Path) -> Path:
    """Write report.html, table.tex, tests.csv, plots/*.png and plots/*.svg into a comparison's folder, from its
    summary.csv, facts.csv, texts.csv and run.json, and return the path of report.html. Raises ResultsError when one of
    them is missing or malformed."""
    results = Results.read(folder)
    figures = {name: (figure, _svg(name, figure)) for name, figure in _figures(results).items()}
    for name, (figure, svg) in figures.items():
        with written_whole(folder / "plots" / f"{name}.png") as path:
            figure.savefig(path, dpi=160, facecolor="white")
        _write(folder / "plots" / f"{name}.svg", svg)
    columns, tests = _columns(results), _tests(results)
    rows = _rows(results, _ungrouped(columns))
    _write(folder / "table.tex", _latex(rows))
    listed = [(name, OURS, metric, *test) for name, own in tests.items() for metric, test in own.items()]
    table = pd.DataFrame(listed, columns=["method", "against", "metric", *Comparison._fields])
    _write(folder / "tests.csv", table.to_csv(index=False, float_format="%.6g"))
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = page.from_string(template).render(
        title=_title(results),
        about=_about(results),
        columns=columns,
        about_subjects=SUBJECTS in columns.values(),
        rows=rows,
        tested=[column for column in TESTED if any(column.metric in own for own in tests.values())],
        tests={name: {metric: _shown_test(test) for metric, test in own.items()} for name, own in tests.items()},
        chat=_chat(results),
        thinking=_thinking(results),
        notes=results.notes,
        published=published if _is_counterfact(results) else None,
        figures={name: _inline(name, svg) for name, (_, svg) in figures.items()},
        texts=_texts(results),
        everything=_everything(results),
        versions=results.run["versions"],
        details={key: json.dumps(results.run[key], indent=2, ensure_ascii=False) for key in _DETAILS},
        number_of=number_of,
        ours=OURS,
        before=BEFORE,
        absent=ABSENT,
        light={_variable(colour): colour for colour in plots.IN_THE_DARK},
        dark={_variable(colour): dark for colour, dark in plots.IN_THE_DARK.items()},
    )
    return _write(folder / "report.html", html)


def _write(file: Path, text: str) -> Path:
    with written_whole(file) as path:
        path.write_text(text, encoding="utf-8")
    return file


def show_table(console: Console, folder: Path) -> None:
    """Print the report's table, what `best_values` marks in green, a second one where something was asked in a chat,
    and below them why a method has no row and what to know about one.

    The columns that mostly fit a terminal of 80 characters; the report has them all. Where there is less room the table
    is wider than the terminal, and no number is cut.

    Raises ResultsError as `write_report` does.
    """
    results = Results.read(folder)
    rows = _rows(results, COLUMNS)
    _print_table(console, _title(results), COLUMNS, rows)
    if chat := _chat(results):
        columns = _ungrouped(chat["columns"])
        _print_table(console, "Asked in plain text and in a chat", columns, chat["rows"])
    for name, remark in [(row.method, row.absence) for row in rows if row.absence] + list(results.notes.items()):
        console.print(Text(f"{name}: {remark}"), soft_wrap=True)


def _print_table(console: Console, title: str, columns: Sequence[Column], rows: Sequence[_Row]) -> None:
    shown = [row for row in rows if row.absence is None]
    used = {
        column.title: column.short
        for column in columns
        if column.short and any(row.cells[column.title].text != ABSENT for row in shown)
    }
    table = Table(title=title, title_style="bold")
    table.add_column("")
    for short in used.values():
        table.add_column(short, justify="right", no_wrap=True)
    for row in shown:
        cells = [Text(row.cells[title].text, "bold green" if row.cells[title].best else "") for title in used]
        name = row.method if row.edits is None else f"{row.method}, {number_of(row.edits, 'edit')}"
        table.add_row(Text(name, "bold" if row.method == OURS else ""), *cells)
    narrowest, widest = Measurement.get(console, console.options.update(max_width=_NO_LIMIT), table)
    table.width = max(narrowest, min(widest, console.width)) if console.is_terminal else widest
    console.print(table, crop=False)


def _chat(results: Results) -> dict[str, Any]:
    """The table of what was asked in a chat, beside the same in plain text: its groups of columns and its rows; empty
    when nothing was asked there."""
    metrics = set(results.measured(results.summary)["metric"])
    groups = {"Asked in plain text": ASKED_PLAINLY, "Asked in a chat": ASKED_IN_CHAT}
    shown = {title: [column for column in group if column.metric in metrics] for title, group in groups.items()}
    if not shown["Asked in a chat"]:
        return {}
    columns = {title: group for title, group in shown.items() if group}
    return {"columns": columns, "rows": _rows(results, _ungrouped(columns))}


def _columns(results: Results) -> dict[str, tuple[Column, ...]]:
    """The first table's columns in groups; those of subjects where the data have several facts about one."""
    groups = {"As in the paper": AS_IN_THE_PAPER, "Beside it": BESIDE_IT, "One subject": SUBJECTS, "Cost": COST}
    metrics = set(results.measured(results.summary)["metric"])
    return {
        title: group
        for title, group in groups.items()
        if group is not SUBJECTS or any(column.metric in metrics for column in group)
    }


def _thinking(results: Results) -> dict[str, Any]:
    """The second table: does the edited model still think? Its groups of columns and its rows; empty when nothing was
    measured but what the first table shows."""
    summary = results.measured(results.summary)
    ability, metrics = ability_columns(summary), set(summary["metric"])
    says, follows, drifts = (
        [column for column in group if column.metric in metrics] for group in (SAYS, FOLLOWS, DRIFTS)
    )
    if not ability and {column.metric for column in (*says, *follows, *drifts)} <= {"efficacy", "perplexity"}:
        return {}
    groups = {"Says it freely": says, "Follows from it": follows, "General ability": ability, "Drift": drifts}
    facts = at_last_checkpoint(results.measured(results.facts))
    shown = {title: columns for title, columns in groups.items() if columns}
    asked = facts.groupby("method")["generation_contains"].count().max() if "generation_contains" in facts else 0
    rows = _rows(results, _ungrouped(shown))
    return {"asked": int(asked), "columns": shown, "rows": rows}


def _ungrouped(groups: Mapping[str, Sequence[Column]]) -> list[Column]:
    return [column for group in groups.values() for column in group]


def _rows(results: Results, columns: Sequence[Column]) -> list[_Row]:
    summary, facts = results.measured(results.summary), results.measured(results.facts)
    table, around = paper_table(summary, columns), intervals(summary, columns)
    best = best_values(table, columns, FactTests(facts, columns), around)
    values, marks, most = table.to_dict("index"), best.to_dict("index"), table[EDITS].max()
    rows = []
    for name in results.methods:
        absence = results.absence(name)
        if absence is not None:
            rows.append(_Row(name, {}, absence))
            continue
        edits = int(values[name][EDITS])
        cells = {
            column.title: _Cell(
                text=column.shown(values[name].get(column.title, np.nan)),
                best=marks[name].get(column.title, False),
                interval=_interval(*around.get((name, column.title), (np.nan, np.nan))),
            )
            for column in columns
        }
        rows.append(_Row(name, cells, edits=edits if name != BEFORE and edits < most else None))
    return rows


def _interval(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{low:.0f}{TO}{high:.0f}".replace("-", MINUS)


def _tests(results: Results) -> dict[str, dict[str, Comparison]]:
    """Every method against NSE, by the metrics of `TESTED`; empty when NSE, or nothing else, was measured."""
    methods = [name for name in results.methods if results.absence(name) is None and name not in (BEFORE, OURS)]
    tests = FactTests(results.measured(results.facts), TESTED)
    found = {name: tests.between(name, OURS) for name in methods}
    return {name: own for name, own in found.items() if own}


def _shown_test(test: Comparison) -> dict[str, str]:
    """facts better and worse, the difference in points, its interval, and p."""
    low, difference, high = (TESTED[0].shown(100 * value) for value in (test.low, test.difference, test.high))
    return {
        "facts": ABSENT if np.isnan(test.better) else f"{test.better:.0f} : {test.worse:.0f}",
        "difference": difference,
        "interval": "" if np.isnan(test.low) else f"{low} to {high}",
        "p": "<0.001" if test.p < 0.001 else f"{test.p:.3f}",
    }


def _is_counterfact(results: Results) -> bool:
    """Whether the facts are of the data set that the paper's figures are of."""
    data = results.run["data"]
    return COUNTERFACT in Path(data["path"]).name.lower() or data.get("sha256") == PUBLISHED[COUNTERFACT].sha256


def _latex(rows: Sequence[_Row]) -> str:
    """The first table, without columns and methods that have no number, for LaTeX (package booktabs)."""
    measured = {row.method: row.cells for row in rows if row.absence is None}
    titles = [title for cells in measured.values() for title in cells]
    used = [title for title in dict.fromkeys(titles) if any(cells[title].text != ABSENT for cells in measured.values())]
    texts = {name: [_latex_cell(cells[title]) for title in used] for name, cells in measured.items()}
    table = pd.DataFrame.from_dict(texts, orient="index", columns=used)
    styled = table.style.format_index(escape="latex", axis="index")
    body: str = styled.to_latex(hrules=True, column_format="l" + "r" * len(used))
    return (
        f"% Bold: best of its column, or not significantly worse; in brackets: 95% intervals. Needs booktabs.\n{body}"
    )


def _latex_cell(cell: _Cell) -> str:
    text = cell.text.replace(MINUS, "$-$").replace("∞", r"$\infty$").replace(ABSENT, "--")
    around = f" {{\\scriptsize({cell.interval.replace(TO, '--').replace(MINUS, '$-$')})}}" if cell.interval else ""
    return (rf"\textbf{{{text}}}" if cell.best else text) + around


def _title(results: Results) -> str:
    count = len(results.methods) - (BEFORE in results.methods)
    facts = number_of(results.facts["case_id"].nunique(), "fact")
    return f"{number_of(count, 'editing method')} compared on {facts}"


def _about(results: Results) -> dict[str, str]:
    """What was run, as label and text."""
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


def _figures(results: Results) -> dict[str, Figure]:
    """The figures there is something to show for, by name."""
    summary, facts = results.measured(results.summary), results.measured(results.facts)
    drawn = {
        "scores": plots.final_scores(summary, intervals(summary, THREE_SCORES)),
        "curves": plots.curves(summary),
        "retention": plots.retention(facts),
        "thinking": plots.curves(summary, _thinking_curves(summary)),
        "drift": plots.drift(summary),
        "cost": plots.cost(summary),
    }
    methods = list(summary["method"])
    if "states" in results.tables:
        drawn["states"] = drift_plots.hidden_plane(results.measured(results.tables["states"]), methods)
    if "weights" in results.tables:
        drawn["weights"] = drift_plots.weight_curves(results.measured(results.tables["weights"]), methods)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _thinking_curves(summary: pd.DataFrame) -> dict[str, str]:
    """Which metrics of the second table are worth a curve, and their titles."""
    says = {"generation_contains": "Says it freely", "portability_accuracy": "Portability"}
    drifts = {"next_token_kl": "KL of the next token (nats)", "hidden_cosine": "Hidden cosine"}
    return {**says, **{column.metric: column.title for column in ability_columns(summary)}, **drifts}


def _svg(name: str, figure: Figure) -> str:
    """A figure as SVG, the same text for the same figure. name: makes its ids its own."""
    stream = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
    return stream.getvalue()


def _inline(name: str, svg: str) -> Markup:
    """A figure's SVG inside the page: its text as text, its colours the page's, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour in plots.IN_THE_DARK:
        svg = svg.replace(colour, f"var({_variable(colour)})")
    return Markup(svg)  # matplotlib has escaped the names in it


def _variable(colour: str) -> str:
    return f"--plot-{colour[1:]}"


def _texts(results: Results) -> list[dict[str, Any]]:
    """Some prompts, evenly spaced, and what each method's final model wrote after them."""
    texts = at_last_checkpoint(results.measured(results.texts)).drop_duplicates(["method", "case_id", "prompt"])
    methods = texts.groupby(["case_id", "prompt"], sort=False)["method"].nunique()
    prompts = methods[methods == methods.max()].reset_index().drop_duplicates("case_id")
    targets = results.facts.drop_duplicates("case_id").set_index("case_id")[["target_true", "target_new"]].fillna("")
    chosen = []
    for place in evenly_spaced(len(prompts), SHOWN) if len(prompts) else ():
        case, prompt = prompts["case_id"].iloc[place], prompts["prompt"].iloc[place]
        old, new = targets.loc[case]
        own = texts[(texts["case_id"] == case) & (texts["prompt"] == prompt)].set_index("method")["text"]
        written = {name: _marked(_continuation(own[name], prompt), new, old) for name in in_order(own.index)}
        chosen.append({"prompt": prompt, "old": old, "new": new, "written": written})
    return chosen


def _continuation(text: str, prompt: str) -> str:
    """What follows the prompt, on one line, cut at a word."""
    written = " ".join(text.removeprefix(prompt).split())
    return written if len(written) <= LENGTH else written[:LENGTH].rsplit(" ", 1)[0] + "\N{NO-BREAK SPACE}…"


def _marked(text: str, new: str, old: str) -> Markup:
    """The text, escaped, with the new and the old answer marked wherever they stand as words."""
    classes = {answer: kind for answer, kind in ((old, "old"), (new, "new")) if answer}
    if not classes:
        return escape(text)
    answers = "|".join(re.escape(answer) for answer in sorted(classes, key=len, reverse=True))
    pieces = re.split(rf"(?<!\w)({answers})(?!\w)", text)  # every second one is an answer
    return Markup("").join(
        Markup('<mark class="{}">{}</mark>').format(classes[piece], piece) if index % 2 else piece
        for index, piece in enumerate(pieces)
    )


def _everything(results: Results) -> pd.DataFrame:
    """Every metric of every method at its last checkpoint, as text: a row a metric."""
    last = at_last_checkpoint(results.measured(results.summary))
    wide = last.pivot_table(index="metric", columns="method", values="value", aggfunc="last", sort=False)
    return wide[in_order(wide.columns)].map(lambda value: ABSENT if pd.isna(value) else f"{value:.5g}")
