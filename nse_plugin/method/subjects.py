"""Which facts are about one thing, and so share a value.

The key of a fact depends on the tokens up to its subject's last one: facts whose rows are alike up to there have one
key, and facts of one subject nearly one wherever it stands. What is written for one of them is written for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from nse_plugin.facts import Fact
from nse_plugin.models.prompts import FactPrompts


def same_subject(facts: Sequence[Fact], prompts: Sequence[FactPrompts]) -> list[list[int]]:
    """The facts (indices, ascending) in groups: of one subject, or alike up to the subject's last token in the bare
    prompt. prompts: their rows."""
    names: list[tuple[Hashable, Hashable]] = [
        (fact.subject.strip(), rows.rewrites[0].to_lookup) for fact, rows in zip(facts, prompts, strict=True)
    ]
    group_of: dict[Hashable, list[int]] = {}
    for place, own in enumerate(names):
        joined = sorted({place, *(other for name in own for other in group_of.get(name, ()))})
        group_of.update((name, joined) for other in joined for name in names[other])
    return sorted({group[0]: group for group in group_of.values()}.values())
