"""The facts that are edited: subjects of the package's demo in templates of known length.

What a gradient step costs depends on the tokens from the subject's last one on, so templates are sorted by the
relation's length: the tokens behind the subject's last one up to the target's first. One template of each length
begins with the subject, the other does not: of CounterFact's, about half do. Targets are one token long. Whether a
fact is true, or even sensible, changes no time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from nse_plugin.facts import Fact
from nse_plugin.models.prompts import FactPrompts, encode_fact

RELATION_LENGTHS = (1, 3, 5)
_PROMPTS = {
    1: ("{} is", "The best thing about {} is"),
    3: ("{} was born in", "As everybody knows, {} is found in"),
    5: ("{} is said to be in", "The story of {} may be found in the"),
}
_TARGETS = ("Paris", "London", "Berlin", "Rome", "Tokyo", "Vienna", "Dublin", "Norway", "Canada", "Egypt", "Spain")
_REPHRASED = ("Many people have asked me. {}", "This is what the teacher said. {}")
# What the model sees a fact behind: five sentences of eleven tokens, as long as those that MEMIT generates.
CONTEXTS = (
    "{}",
    "The first thing that I saw when I arrived. {}",
    "Therefore it is clear that the results of the. {}",
    "Because of the heavy rain in the early morning. {}",
    "I have been thinking about the old house for. {}",
    "You can find a lot of people who like. {}",
)


def make_facts(count: int, relation: int = 3, neighbours: int = 0) -> list[Fact]:
    """`count` different facts with a relation of so many tokens, each with a subject of its own.

    neighbours: of each fact, so many locality prompts; with them come two rephrased prompts.
    """
    subjects = _subjects(max(count, 1))
    facts = []
    for number in range(count):
        prompt = _PROMPTS[relation][number % 2]
        subject = subjects[number]
        new, true = _TARGETS[number % len(_TARGETS)], _TARGETS[(number + 5) % len(_TARGETS)]
        others = [subjects[(number + step) % len(subjects)] for step in range(1, neighbours + 1)]
        facts.append(
            Fact(
                prompt,
                subject,
                new,
                target_true=true,
                rephrase_prompts=tuple(text.format(prompt.format(subject)) for text in _REPHRASED if neighbours),
                # in pairs: a prompt that facts share is asked once
                locality_prompts=tuple((prompt.format(f"{other} and {subject}"), true) for other in others),
                case_id=number,
            )
        )
    return facts


def relation_length(prompts: FactPrompts) -> int:
    """The tokens behind the subject's last one up to the target's first."""
    bare = prompts.rewrites[0]
    return len(bare.ids) - bare.lookup - len(bare.targets)


def check_lengths(tokenizer: Any) -> None:
    """Raise ValueError where a tokenizer makes another number of tokens of a template, or of a target."""
    for length in RELATION_LENGTHS:
        for fact in make_facts(2, length):
            prompts = encode_fact(tokenizer, fact, CONTEXTS)
            found, target = relation_length(prompts), len(prompts.rewrites[0].targets)
            if (found, target) != (length, 1):
                raise ValueError(
                    f"This tokenizer makes {found} tokens of the relation of {fact.prompt!r} and {target} of "
                    f"{fact.target_new!r}, where {length} and 1 are meant: the lengths in benchmarks/facts.py are "
                    "SmolLM2's."
                )


def _subjects(count: int) -> Sequence[str]:
    """At least so many: the demo's, then pairs of them."""
    records = json.loads((resources.files("nse_plugin.data") / "demo_facts.json").read_text(encoding="utf-8"))
    own = list(dict.fromkeys(record["subject"] for record in records))
    pairs = (f"{one} and {other}" for step in itertools.count(1) for one, other in zip(own, own[step:], strict=False))
    return [*own, *itertools.islice(pairs, max(0, count - len(own)))]
