"""Columns of a comparison's tables: the metric each of them shows, and its format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

OURS = "NSE"  # last row, as in the paper
EDITS = "Edits"
ABSENT, TO, MINUS = "\N{EN DASH}", "\N{EN DASH}", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Column:
    """Format of a metric of summary.csv in a table: value * scale, with `decimals` decimals. short: title in the
    terminal; None if the column is not shown there."""

    metric: str
    title: str
    scale: float = 1.0
    decimals: int = 2
    lower_is_better: bool = False
    short: str | None = None

    def shown(self, value: float) -> str:
        """Format a value of the table; a missing value is a dash."""
        if pd.isna(value):
            return ABSENT
        if np.isinf(value):
            return "∞"
        if abs(value) >= 1e6:
            return f"{value:.1e}".replace("e+0", "e").replace("e+", "e")
        return f"{value:,.{self.decimals}f}".replace("-", MINUS)


AS_IN_THE_PAPER = (
    Column("efficacy", "Efficacy", 100, short="Eff."),
    Column("generalization", "Generalization", 100, short="Gen."),
    Column("specificity", "Specificity", 100, short="Spe."),
    Column("fluency", "Fluency", 100, short="Flu."),
    Column("consistency", "Consistency", 100, short="Con."),
)
BESIDE_IT = (
    Column("score", "Score", 100, short="Score"),
    Column("rewrite_accuracy", "Accuracy", 100),
    Column("locality_agreement", "Locality", 100),
    Column("perplexity", "Perplexity", lower_is_better=True, short="PPL"),
)
ANSWERS = (
    Column("answer_exact", "Exact", 100, short="Exact"),
    Column("answer_rephrase_exact", "Exact, rephrased", 100, short="Reph."),
    Column("answer_begins", "Begins with it", 100, short="Begins"),
)
SUBJECTS = (
    Column("retention_same_subject", "Same subject", 100, short="Subj."),
    Column("correction_ahead", "Corrected", 100, short="Corr."),
)
COST = (
    Column("seconds_per_fact", "Seconds a fact", lower_is_better=True, short="s/fact"),
    Column("peak_memory_mib", "Memory (MiB)", decimals=0, lower_is_better=True),
)
COLUMNS = (*AS_IN_THE_PAPER, *BESIDE_IT, *ANSWERS, *SUBJECTS, *COST)
THREE_SCORES = AS_IN_THE_PAPER[:3]
TESTED = (*THREE_SCORES, BESIDE_IT[0], *ANSWERS, *SUBJECTS)  # tested against NSE, in a separate table
# The same facts asked in plain text and in a chat.
ASKED_PLAINLY = (
    Column("efficacy", "Efficacy", 100, short="Eff."),
    Column("rewrite_accuracy", "Accuracy", 100, short="Acc."),
)
ASKED_IN_CHAT = (
    Column("chat_states_new", "States new", 100, short="New"),
    Column("chat_names_old", "Names old", 100, lower_is_better=True, short="Old"),
    Column("chat_first_token", "First token", 100, short="First"),
    Column("chat_efficacy", "Efficacy, begun", 100, short="Eff., begun"),
    Column("chat_accuracy", "Accuracy, begun", 100, short="Acc., begun"),
)
# What the model generates without a given target, and how far it is from the unedited model.
SAYS = (
    Column("efficacy", "Efficacy", 100),
    Column("generation_contains", "Says it", 100),
    Column("generation_exact", "Exactly", 100),
    Column("rephrase_contains", "Rephrased", 100),
    Column("generation_judged", "Judge", 100),
)
FOLLOWS = (
    Column("portability_accuracy", "Portability", 100),
    Column("reversal_accuracy", "Reversal", 100),
)
DRIFTS = (
    Column("perplexity", "Perplexity", lower_is_better=True),
    Column("next_token_kl", "KL (nats)", decimals=3, lower_is_better=True),
    Column("hidden_cosine", "Hidden cosine", decimals=3),
    Column("hidden_covariance_shift", "Covariance", decimals=3, lower_is_better=True),
    Column("weight_change", "Weights", 100, lower_is_better=True),
    Column("weight_rank", "Rank", decimals=0, lower_is_better=True),
)


def ability_columns(summary: pd.DataFrame) -> tuple[Column, ...]:
    """Return the columns of general ability: each metric that is a share and, for files of questions, the share of
    questions answered as by the unedited model."""
    metrics = list(dict.fromkeys(summary["metric"].astype(str)))
    found: list[Column] = []
    for metric in metrics:
        if metric.startswith("ability_") and not metric.endswith("_kept"):
            title = metric.removeprefix("ability_").replace("_", " ")
            found.append(Column(metric, title, 100))
            if f"{metric}_kept" in metrics:
                found.append(Column(f"{metric}_kept", f"{title}, kept", 100))
    return tuple(found)
