"""The facts that are edited: subjects of the package's demo in templates of known length.

The cost of a gradient step depends on the number of tokens from the subject's last one on. Templates are therefore
grouped by the length of the relation: the number of tokens between the subject's last token and the target's first.
For each length, one template begins with the subject and the other does not (in CounterFact about half of them do).
Targets are one token long. Whether a fact is true or sensible does not affect the time.
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
# Texts before the prompt: none, and five sentences of eleven tokens, as long as those that MEMIT generates.
CONTEXTS = (
    "{}",
    "The first thing that I saw when I arrived. {}",
    "Therefore it is clear that the results of the. {}",
    "Because of the heavy rain in the early morning. {}",
    "I have been thinking about the old house for. {}",
    "You can find a lot of people who like. {}",
)


def make_facts(count: int, relation: int = 3, neighbours: int = 0) -> list[Fact]:
    """Make `count` facts with different subjects.

    relation: number of tokens between subject and target. neighbours: number of locality prompts of each fact; if it is
    above 0, each fact also has two rephrased prompts.
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
                # a pair of subjects: a prompt shared by several facts would be evaluated only once
                locality_prompts=tuple((prompt.format(f"{other} and {subject}"), true) for other in others),
                case_id=number,
            )
        )
    return facts


def relation_length(prompts: FactPrompts) -> int:
    """Return the number of tokens between the subject's last token and the target's first."""
    bare = prompts.rewrites[0]
    return len(bare.ids) - bare.lookup - len(bare.targets)


def check_lengths(tokenizer: Any) -> None:
    """Check that templates and targets have the expected numbers of tokens.

    Raises ValueError if the tokenizer splits a template or a target into another number of tokens.
    """
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
    """Return at least `count` subjects: those of the demo, then pairs of them."""
    records = json.loads((resources.files("nse_plugin.data") / "demo_facts.json").read_text(encoding="utf-8"))
    own = list(dict.fromkeys(record["subject"] for record in records))
    pairs = (f"{one} and {other}" for step in itertools.count(1) for one, other in zip(own, own[step:], strict=False))
    return [*own, *itertools.islice(pairs, max(0, count - len(own)))]
