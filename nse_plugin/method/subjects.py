"""The forms that a fact is written in, and which facts are about one thing and so share a value.

A fact is written for each of its subject's names, in plain text, in a chat or in both. The key of each form depends on
the tokens up to the name's last one: forms that are alike up to there have one key, and those of one subject nearly one
wherever it stands. What is written for one of them is written for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from nse_plugin.facts import Fact
from nse_plugin.models.chat import frames
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts, encode_fact


@dataclass(frozen=True)
class Form:
    """One form of a fact. owner: the fact's place among the others. prompts: its rows."""

    owner: int
    prompts: FactPrompts


def forms_of(
    tokenizer: Any, facts: Sequence[Fact], templates: Sequence[str], chat: bool | str, layout: Layout
) -> list[Form]:
    """Every fact in all its forms: each name, in plain text and in a chat. Raises FactError as `encode_fact` does."""
    return [
        Form(place, encode_fact(tokenizer, fact.named(name), templates, layout.max_positions, layout.vocabulary, frame))
        for place, fact in enumerate(facts)
        for name in fact.names
        for frame in frames(tokenizer, chat)
    ]


def by_fact(forms: Sequence[Form]) -> list[list[int]]:
    """The forms (indices) of each fact."""
    return [[place for place, _ in group] for _, group in groupby(enumerate(forms), key=lambda one: one[1].owner)]


def same_subject(facts: Sequence[Fact], forms: Sequence[Form]) -> list[list[int]]:
    """The forms (indices, ascending) in groups: of one fact, of facts with a name in common, or alike up to the
    subject's last token in the bare prompt."""
    names: list[list[Hashable]] = [
        [*(name.strip() for name in facts[form.owner].names), form.prompts.rewrites[0].to_lookup] for form in forms
    ]
    group_of: dict[Hashable, list[int]] = {}
    for place, own in enumerate(names):
        joined = sorted({place, *(other for name in own for other in group_of.get(name, ()))})
        group_of.update((name, joined) for other in joined for name in names[other])
    return sorted({group[0]: group for group in group_of.values()}.values())
