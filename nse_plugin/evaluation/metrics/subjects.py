"""Several facts about one subject: are earlier facts retained, and is a correction more probable than the old target?

Facts about one subject have nearly the same key, so a later fact may overwrite an earlier one. CounterFact and zsRE
contain each subject only once, so they cannot measure this.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from nse_plugin.evaluation.teacher_forcing import Predictions
from nse_plugin.facts import Fact, Pair

METRICS = ("retention_same_subject", "correction_ahead")


def replaced(facts: Sequence[Fact]) -> list[bool]:
    """Return for each fact, given in edit order, whether a later one has its `Fact.question` and another target."""
    standing = {fact.question: fact.signature for fact in facts}
    return [standing[fact.question] != fact.signature for fact in facts]


def scores(facts: Sequence[Fact], rounds: Sequence[int] | None, predictions: Predictions) -> pd.DataFrame:
    """Return `METRICS`, one row per fact, in the given order; NaN for facts that are `replaced` or to which a metric
    does not apply.

    `retention_same_subject`: for a fact whose subject, under any of its names, was edited again in a later round by a
    fact with another question (a new fact or a correction): 1.0 if its target's first token is the most likely one
    after its own prompt, else 0.0.
    `correction_ahead`: for a fact that replaced others: 1.0 if its target is more probable than each of their targets,
    else 0.0.

    facts: in edit order. rounds: the round in which each fact was written; None: nothing was written, all metrics are
    NaN. predictions: at least those of `pairs` of all facts.
    """
    if rounds is None:
        return pd.DataFrame(math.nan, index=range(len(facts)), columns=list(METRICS))
    last: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)  # the last round, by name and question
    asked: dict[tuple[str, str], list[Fact]] = defaultdict(list)  # the facts in their order, by question
    for fact, number in zip(facts, rounds, strict=True):
        asked[fact.question].append(fact)
        for name in fact.names:
            last[name.strip()][fact.question] = number
    rows = []
    for fact, number, is_gone in zip(facts, rounds, replaced(facts), strict=True):
        own = predictions[_pair(fact)]
        others = [other for name in fact.names for other in last[name.strip()].items()]
        again = any(question != fact.question and later > number for question, later in others)
        old = [predictions[_pair(one)] for one in asked[fact.question] if one.signature != fact.signature]
        is_ahead = all(own.log_probability > one.log_probability for one in old)
        rows.append(
            {
                "retention_same_subject": float(own.is_begun) if again and not is_gone else math.nan,
                "correction_ahead": float(is_ahead) if old and not is_gone else math.nan,
            }
        )
    return pd.DataFrame(rows, columns=list(METRICS))


def pairs(fact: Fact) -> list[Pair]:
    """Return the fact's own (prompt, target) pair; `scores` needs the predictions of the pairs of all facts."""
    return [_pair(fact)]


def _pair(fact: Fact) -> Pair:
    return fact.asked(fact.text, fact.target_new)
