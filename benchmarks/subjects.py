"""Several facts about one subject, in one round, in three, and after a correction: python -m benchmarks.subjects

24 people have three facts each. For each relation it prints the share of facts whose target SmolLM2-135M predicts (the
most likely next token is the target's first), and for comparison the same facts with a different subject for each.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from nse_plugin import EditSession, Fact, NSEHyperParams
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.models.embedded import embedded_model

PEOPLE, ROUND = 24, 12


def _words(text: str) -> list[str]:
    return text.split()


FIRST = _words("Anton Maria Lucas Helena Tobias Irene Stefan Clara Hugo Nadia Victor Elena Simon Alice Robert Julia")
LAST = _words("""
Kreutzer Velasquez Lindholm Okafor Tanaka Morozov Haldane Bertrand Castellan Drummond Eriksen Fontaine Galloway Hoffmann
Ivanov Jansen Kowalski Lambert Moreno Novak Oliveira Petrov Quintana Rossi Schmidt Takahashi Ulrich Vargas Whitfield
Yamamoto Zimmerman Abbott Barlow Carver Delgado Ellison Farrow Gibson Harker Ingram Jarvis Keller Larkin Mercer Norton
Osborne Pemberton Ramsey Sawyer Thornton Underwood Vaughn Walcott Xavier Yates Zeller Ashford Blackwood Crawford Dawson
Everett Fletcher Granger Holloway Irving Jennings Kendall Langley Marlowe Nash Ortega Prescott Quigley Redmond Sinclair
Tremaine Upton Vance Wexler Yorke Zapata Alvarez Bianchi Cardoso Dubois Engel Ferrari Gruber Hansen Ibarra Jimenez Klein
Larsson Nielsen Olsson Pereira
""")
RELATIONS = {
    "{} was born in": _words("Paris London Rome Berlin Madrid Vienna Tokyo Moscow Cairo Dublin Athens Lisbon"),
    "{} works as a": _words("lawyer doctor teacher painter farmer chemist pilot baker singer banker poet tailor"),
    "On stage, {} plays the": _words("piano guitar violin drums flute trumpet harp cello saxophone clarinet organ"),
}


def facts_of(names: Sequence[str], seed: int = 0) -> list[list[Fact]]:
    """Make one list of facts per relation."""
    draw = random.Random(seed)
    return [[Fact(prompt, name, draw.choice(targets)) for name in names] for prompt, targets in RELATIONS.items()]


def said(session: EditSession, facts: Sequence[Fact]) -> float:
    """Return the share of facts whose target begins with the model's most likely token."""
    found = predict(session.model, session.tokenizer, [fact.asked(fact.text, fact.target_new) for fact in facts])
    return sum(one.is_begun for one in found.values()) / len(facts)


def written(session: EditSession, facts: Sequence[Fact], size: int) -> None:
    for first in range(0, len(facts), size):
        print(f"    {session.edit(facts[first : first + size])}", file=sys.stderr)


def session(solver: str) -> EditSession:
    model, tokenizer = embedded_model()
    return EditSession(model, tokenizer, NSEHyperParams.for_model(model, solver=solver))


def shown(what: str, shares: Sequence[float]) -> None:
    print(f"{what:<42}" + "  ".join(f"{share:.2f}" for share in shares), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--solver", default="fast", choices=("exact", "fast"))
    solver = parser.parse_args().solver
    torch.set_num_threads(1)
    draw = random.Random(1)
    names = [f"{draw.choice(FIRST)} {last}" for last in LAST]
    draw.shuffle(names)
    relations = facts_of(names[:PEOPLE])

    one = session(solver)
    others = [names[PEOPLE * (1 + place) : PEOPLE * (2 + place)] for place in range(len(relations))]
    own = [
        [replace(fact, subject=name) for fact, name in zip(facts, group, strict=True)]
        for facts, group in zip(relations, others, strict=True)
    ]
    for facts in own:
        written(one, facts, ROUND)
    shown("a subject each of their own", [said(one, facts) for facts in own])

    one = session(solver)
    written(one, [fact for three in zip(*relations, strict=True) for fact in three], len(relations) * PEOPLE)
    shown("one subject, one round", [said(one, facts) for facts in relations])

    one = session(solver)
    for number, facts in enumerate(relations, 1):
        written(one, facts, ROUND)
        shown(f"one subject, after relation {number}", [said(one, facts) for facts in relations[:number]])
    old, cities = relations[0], RELATIONS[relations[0][0].prompt]
    new = [replace(fact, target_new=draw.choice([c for c in cities if c != fact.target_new])) for fact in old]
    written(one, new, ROUND)
    shown("one subject, the first corrected", [said(one, facts) for facts in (new, *relations[1:])])
    pairs = [fact.asked(fact.text, fact.target_new) for fact in (*new, *old)]
    found = predict(one.model, one.tokenizer, pairs)
    ahead = [
        found[a].log_probability > found[b].log_probability
        for a, b in zip(pairs[: len(new)], pairs[len(new) :], strict=True)
    ]
    print(f"the corrected target is ahead of the old one in {sum(ahead)} of {len(ahead)}")


if __name__ == "__main__":
    main()
