"""How often a fact's subject is found when it is left out: python -m benchmarks.found_subjects [FILE ...]

For each file of facts (by default the demo's) it prints four shares of facts, with the rephrased prompts and without:
those whose subject is found exactly, those whose subject's last word is found (the place where a fact is looked up),
those with a wrong subject, and those refused because no subject is found. `--lower` converts everything to lower case
first. `--edit` takes the facts whose subject, searched without rephrased prompts, differs from the given one, writes at
most 60 of them into SmolLM2-135M, once with the given subjects and once with those found, and prints both shares of
facts whose target the model predicts.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.subjects import said, session, written
from nse_plugin import Fact, FactError
from nse_plugin.facts.files import DEMO, load_facts

ROUND, EDITED = 10, 60


def found(fact: Fact, has_rephrased: bool) -> Fact | None:
    """Return the fact with the subject found in its texts, or None if none is found."""
    try:
        return Fact.from_record({
            "prompt": fact.text,
            "target_new": fact.target_new,
            "rephrase_prompts": fact.rephrase_prompts if has_rephrased else (),
        })  # fmt: skip
    except FactError:
        return None


def outcome(given: Fact, other: Fact | None) -> str:
    if other is None:
        return "refused"
    if other.subject == given.subject:
        return "exact"
    behind = (len(fact.prompt.partition("{}")[2].lstrip(").!?\"'")) for fact in (given, other))
    return "last word" if len({*behind}) == 1 else "wrong"


def in_small_letters(fact: Fact) -> Fact:
    rephrased = tuple(text.lower() for text in fact.rephrase_prompts)
    return replace(fact, prompt=fact.prompt.lower(), subject=fact.subject.lower(), rephrase_prompts=rephrased)


def shown(what: str, facts: Sequence[Fact], has_rephrased: bool) -> None:
    counts = Counter(outcome(fact, found(fact, has_rephrased)) for fact in facts)
    shares = {name: counts[name] / len(facts) for name in ("exact", "last word", "wrong", "refused")}
    shares["last word"] += shares["exact"]
    print(f"{what:<24} {'with' if has_rephrased else 'without':<8} {len(facts):>6} facts: ", end="")
    print(", ".join(f"{name} {share:.3f}" for name, share in shares.items()), flush=True)


def said_once_written(facts: Sequence[Fact]) -> float:
    """Write the facts and return the share whose target begins with the model's most likely token."""
    one = session("fast")
    written(one, facts, ROUND)
    return said(one, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", default=[DEMO])
    parser.add_argument("--lower", action="store_true")
    parser.add_argument("--edit", action="store_true")
    arguments = parser.parse_args()
    for file in arguments.files:
        name = str(file).rpartition("/")[2]
        facts = load_facts(file, skip_bad=True).facts
        if arguments.lower:
            facts = [in_small_letters(fact) for fact in facts]
        for has_rephrased in (True, False):
            if not has_rephrased or any(fact.rephrase_prompts for fact in facts):
                shown(name, facts, has_rephrased)
        pairs = [(fact, other) for fact in facts if (other := found(fact, False)) and other.subject != fact.subject]
        if arguments.edit and pairs:
            torch.set_num_threads(1)
            given, others = zip(*pairs[:EDITED], strict=True)
            print(f"{name}: {len(given)} facts, said with the given subjects ", end="", flush=True)
            print(f"{said_once_written(given):.3f}, with those found {said_once_written(others):.3f}", flush=True)


if __name__ == "__main__":
    main()
