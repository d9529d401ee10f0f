"""The forms in which a fact is written, and which facts have the same subject and therefore share a value.

A fact is written for each name of its subject, in plain text, in a chat or in both. The key of a form depends on the
tokens up to the last token of the name: forms with the same tokens up to there have the same key, and forms of one
subject have nearly the same key wherever the name stands. A value written for one of them is therefore written for all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from nse_plugin.facts import Fact, FactError
from nse_plugin.models.chat import frames
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts, encode_fact


@dataclass(frozen=True)
class Form:
    """One form of a fact. owner: the index of the fact. prompts: the form's token rows."""

    owner: int
    prompts: FactPrompts


def forms_of(
    tokenizer: Any,
    facts: Sequence[Fact],
    templates: Sequence[str],
    chat: bool | str,
    layout: Layout,
    target_eos: bool = False,
) -> list[Form]:
    """Return all forms of every fact: each name, in plain text and in a chat. target_eos: end targets with the EOS
    token. Raises FactError like `encode_fact`, or if there is no EOS token."""
    if target_eos and tokenizer.eos_token_id is None:
        raise FactError("target_eos is True, and the tokenizer has no EOS token: leave it out, or set one.")
    ending = [tokenizer.eos_token_id] if target_eos else []
    encode = partial(encode_fact, max_positions=layout.max_positions, vocabulary=layout.vocabulary, ending=ending)
    return [
        Form(place, encode(tokenizer, fact.named(name), templates, frame=frame))
        for place, fact in enumerate(facts)
        for name in fact.names
        for frame in frames(tokenizer, chat)
    ]


def by_fact(forms: Sequence[Form]) -> list[list[int]]:
    """Return the forms (indices) of each fact."""
    return [[place for place, _ in group] for _, group in groupby(enumerate(forms), key=lambda one: one[1].owner)]


def same_subject(facts: Sequence[Fact], forms: Sequence[Form]) -> list[list[int]]:
    """Group the forms (indices, ascending) of one subject: forms of the same fact, of facts with a name in common, or
    with the same tokens up to the subject's last token in the bare prompt."""
    names: list[list[Hashable]] = [
        [*(name.strip() for name in facts[form.owner].names), form.prompts.rewrites[0].to_lookup] for form in forms
    ]
    group_of: dict[Hashable, list[int]] = {}
    for place, own in enumerate(names):
        joined = sorted({place, *(other for name in own for other in group_of.get(name, ()))})
        group_of.update((name, joined) for other in joined for name in names[other])
    return sorted({group[0]: group for group in group_of.values()}.values())
