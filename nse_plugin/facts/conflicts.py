"""Check that the facts of one round neither contradict nor repeat each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.fact import Fact


def same_questions(facts: Sequence[Fact]) -> Iterator[tuple[int, int]]:
    """Yield the positions (earlier, later) of facts with the same prompt and subject, each with the last one before it.
    No round may contain both."""
    last: dict[tuple[str, str], int] = {}
    for place, fact in enumerate(facts):
        if (earlier := last.get(fact.question)) is not None:
            yield earlier, place
        last[fact.question] = place


def check_round(facts: Sequence[Fact]) -> None:
    """Raise FactError if a round is empty, contains a fact twice, or has two targets for one prompt and subject."""
    if not facts:
        raise FactError("facts is empty: a round needs at least one fact.")
    for first, place in same_questions(facts):
        fact, other, target = facts[place], facts[first].signature[-1], facts[place].signature[-1]
        if other != target:
            raise FactError(
                f"Two facts of one round ask {fact.text!r} for different targets, {other!r} and {fact.target_new!r}: "
                "keep one, or put them in different rounds."
            )
        both = " and ".join(_name(facts[number], number) for number in (first, place))
        raise FactError(
            f"Two facts of one round are the same, {both} ask {facts[first].text!r} for {target!r}: keep one, it "
            "would weigh twice."
        )


def _name(fact: Fact, place: int) -> str:
    return f"facts[{place}]" if fact.case_id is None else f"fact {fact.case_id}"
