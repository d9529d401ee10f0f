"""The demo's results: on screen, as CSV, and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nse_plugin.evaluation.metrics.probability import METRICS
from nse_plugin.facts import Fact
from nse_plugin.support.files import written_whole

ALL_METRICS = (*METRICS, "fluency")
SHOWN = 3  # number of texts to print, of the oldest edits
SENTENCE = 72  # maximum number of characters to print of a text


@dataclass(frozen=True)
class Measurement:
    """The scores of all facts on one model.

    scores: one row per fact: case_id, efficacy, generalization, specificity, fluency, and, after editing, round (from
    1, the oldest), status, residual_before, residual, passes, seconds. texts: the model's continuations of a fact's
    prompt, including the prompt, by the fact's row; only these rows have a fluency.
    """

    method: str
    edits: int
    scores: pd.DataFrame
    texts: dict[int, str]

    @property
    def means(self) -> pd.Series[float]:
        """The four metrics, averaged over the facts."""
        return self.scores[list(ALL_METRICS)].mean()


def save_results(
    out: Path, measurements: Sequence[Measurement], facts: Sequence[Fact], relations: Mapping[object, str]
) -> pd.DataFrame:
    """Write summary.csv, facts.csv and efficacy_by_age.png, each atomically. Returns the summary."""
    summary = summary_frame(measurements)
    for name, frame in (("summary.csv", summary), ("facts.csv", facts_frame(measurements, facts, relations))):
        with written_whole(out / name) as path:
            frame.to_csv(path, index=False, float_format="%.6g")
    with written_whole(out / "efficacy_by_age.png") as path:
        plot_by_age(measurements, path)
    return summary


def summary_frame(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Return one row per method and metric, with the columns method, edits, metric, value."""
    rows = [(m.method, m.edits, metric, m.means[metric]) for m in measurements for metric in ALL_METRICS]
    return pd.DataFrame(rows, columns=["method", "edits", "metric", "value"])


def facts_frame(
    measurements: Sequence[Measurement], facts: Sequence[Fact], relations: Mapping[object, str]
) -> pd.DataFrame:
    """Return one row per method and fact: the fact, its scores, and its `age` (the number of rounds after its own)."""
    described = pd.DataFrame(
        {
            "case_id": [fact.case_id for fact in facts],
            "relation": [relations.get(fact.case_id) for fact in facts],
            "prompt": [fact.text for fact in facts],
            "target_true": [fact.target_true for fact in facts],
            "target_new": [fact.target_new for fact in facts],
        }
    )
    parts = []
    for measurement in measurements:
        scores = measurement.scores
        part = described.merge(scores.assign(age=_age(scores)) if measurement.edits else scores, on="case_id")
        part.insert(0, "method", measurement.method)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _age(scores: pd.DataFrame) -> pd.Series[int]:
    age: pd.Series[int] = scores["round"].max() - scores["round"]
    return age


def plot_by_age(measurements: Sequence[Measurement], path: Path) -> None:
    """Plot Efficacy and Generalization of the final model by the age of the edit, one colour per method."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    edited = [measurement for measurement in measurements if measurement.edits]
    for colour, measurement in zip(("tab:blue", "tab:orange", "tab:green"), edited, strict=False):
        by_age = measurement.scores.groupby(_age(measurement.scores))[["efficacy", "generalization"]].mean()
        label = f"{measurement.method}, "
        axes.plot(by_age.index, by_age["efficacy"], "o-", color=colour, label=label + "Efficacy")
        axes.plot(by_age.index, by_age["generalization"], "s:", color=colour, alpha=0.6, label=label + "Generalization")
    axes.set_xlabel("age of the edit: rounds written after its own (right: oldest)")
    axes.set_ylabel("share of prompts with P(new) > P(true)")
    axes.set_ylim(-0.03, 1.03)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize="small")
    axes.set_title(f"{edited[0].edits} facts written in rounds, all scored on the final model")
    figure.savefig(path, dpi=150)


def show_results(console: Console, measurements: Sequence[Measurement], facts: Sequence[Fact]) -> None:
    """Print the table of metrics, and the models' texts about some of the facts."""
    table = Table(title=f"All {len(facts)} facts on the final model")
    table.add_column("")
    for metric in ALL_METRICS:
        table.add_column(metric.capitalize(), justify="right")
    for measurement in measurements:
        table.add_row(measurement.method, *(f"{measurement.means[metric]:.3f}" for metric in ALL_METRICS))
    console.print(table)
    for index in list(measurements[0].texts)[:SHOWN]:
        fact = facts[index]
        console.print(
            f"\n{fact.text} ... ({fact.target_true}, edited to {fact.target_new})", style="bold", highlight=False
        )
        for measurement in measurements:
            written = " ".join(measurement.texts[index][len(fact.text) :].split())
            console.print(
                Text(f"  {measurement.method:<17} {written[:SENTENCE].rsplit(' ', 1)[0]} ..."), soft_wrap=True
            )
