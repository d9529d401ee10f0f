"""Several facts about one subject: does what was written first still hold, and does a correction win?

Facts of one subject are looked up at the same place of the model, so what is written later may overwrite what stands
there. CounterFact and zsRE have a subject once, and show nothing of it.
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
    """Of facts written in this order: whether a later one asks the same (`Fact.question`) for another target."""
    standing = {fact.question: fact.signature for fact in facts}
    return [standing[fact.question] != fact.signature for fact in facts]


def scores(facts: Sequence[Fact], rounds: Sequence[int] | None, predictions: Predictions) -> pd.DataFrame:
    """One row a fact, in the order given, of the facts that stand (not `replaced`).

    `retention_same_subject`: of a fact whose subject, under any of its names, was written again in a later round, by a
    fact that asks something else or corrects another one: 1.0 where it holds, else 0.0. It holds where its target's
    first token is what the model holds most likely after its own prompt.
    `correction_ahead`: of a fact that replaced others: 1.0 where its target is more probable than each of theirs.

    rounds: in which each fact was written; None: nothing was written. predictions: of `pairs` of all these facts, and
    maybe others. NaN where a fact is not of that kind.
    """
    if rounds is None:
        return pd.DataFrame(math.nan, index=range(len(facts)), columns=list(METRICS))
    last: dict[str, dict[tuple[str, str], int]] = defaultdict(dict)  # by name and question, the last round
    asked: dict[tuple[str, str], list[Fact]] = defaultdict(list)  # by question, the facts in their order
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
    """What `scores` needs predicted of a fact, and of those that replace it."""
    return [_pair(fact)]


def _pair(fact: Fact) -> Pair:
    return fact.asked(fact.text, fact.target_new)
