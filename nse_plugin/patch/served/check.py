"""Check every fact in llama.cpp, with llama.cpp's own tokenisation and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nse_plugin.facts import Fact
from nse_plugin.facts.words import whole_words
from nse_plugin.patch.served.llama_cpp import Served, served_answers


@dataclass(frozen=True)
class ServedFact:
    """llama.cpp's answer to the prompt of a fact. answer: its continuation of the prompt, long enough for any target.
    holds: whether the answer begins with the target."""

    case_id: int | str | None
    subject: str
    prompt: str
    target: str
    answer: str
    holds: bool


def check_served(
    file: str | Path, facts: Sequence[Fact], adapter: str | Path | None = None, threads: int = 1
) -> list[dict[str, object]]:
    """Prompt llama.cpp for every fact and return one dict per fact, with the fields of `ServedFact`.

    file: a GGUF model. adapter: a GGUF adapter for it. The prompts are passed as texts, which llama.cpp tokenises by
    the file's settings, with or without a BOS. Raises PatchError if `xllamacpp` is not installed or a file cannot be
    loaded.
    """
    longest = max((len(fact.target_new.encode()) for fact in facts), default=0)  # no target has more tokens than bytes
    asked = [fact.text for fact in facts]
    answers = served_answers(Path(file), asked, None if adapter is None else Path(adapter), longest + 1, threads)
    return [asdict(_served_fact(fact, answer)) for fact, answer in zip(facts, answers, strict=True)]


def _served_fact(fact: Fact, answer: Served) -> ServedFact:
    answered, target = answer.text.strip(), fact.target_new.strip()
    holds = any(start == 0 for start, _ in whole_words(target, answered))
    return ServedFact(fact.case_id, fact.subject, fact.text, fact.target_new, answer.text, holds)
