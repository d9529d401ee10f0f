"""Does every fact hold where the model is served? llama.cpp is asked, with its own tokens and its own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nse_plugin.facts import Fact
from nse_plugin.facts.words import whole_words
from nse_plugin.patch.served.llama_cpp import Served, served_answers


@dataclass(frozen=True)
class ServedFact:
    """A fact as llama.cpp answers it. answer: its continuation of the prompt, as long as the target may be. holds:
    whether that begins with the target."""

    case_id: int | str | None
    subject: str
    prompt: str
    target: str
    answer: str
    holds: bool


def check_served(
    file: str | Path, facts: Sequence[Fact], adapter: str | Path | None = None, threads: int = 1
) -> list[dict[str, object]]:
    """Ask llama.cpp for every fact, of a GGUF file with or without a GGUF adapter: a dict of `ServedFact` for each.

    The prompts are texts, which llama.cpp tokenises by the file's settings, with or without a BOS. Raises PatchError
    where `xllamacpp` is not installed, or the files cannot be loaded.
    """
    longest = max((len(fact.target_new.encode()) for fact in facts), default=0)  # no target has more tokens than bytes
    asked = [fact.text for fact in facts]
    answers = served_answers(Path(file), asked, None if adapter is None else Path(adapter), longest + 1, threads)
    return [asdict(_served_fact(fact, answer)) for fact, answer in zip(facts, answers, strict=True)]


def _served_fact(fact: Fact, answer: Served) -> ServedFact:
    answered, target = answer.text.strip(), fact.target_new.strip()
    holds = any(start == 0 for start, _ in whole_words(target, answered))
    return ServedFact(fact.case_id, fact.subject, fact.text, fact.target_new, answer.text, holds)
