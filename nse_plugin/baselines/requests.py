"""EasyEdit's requests as the two texts that GRACE and MEND need; neither asks for the subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nse_plugin.facts import FactError
from nse_plugin.facts.texts import SLOT


def prompts_and_targets(requests: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """`(prompt with the subject written out, target, separator)` of every request.

    requests: `prompt` (the subject written out, or `{}` and `subject`) and `target_new`; `separator` where it is not
    the space that EasyEdit puts between them.
    Raises FactError when a text is missing, or there is a `{}` and no subject.
    """
    return [_prompt_and_target(request, number) for number, request in enumerate(requests)]


def _prompt_and_target(request: Mapping[str, Any], number: int) -> tuple[str, str, str]:
    prompt, target, subject = (request.get(name) for name in ("prompt", "target_new", "subject"))
    for name, text in (("prompt", prompt), ("target_new", target)):
        if not isinstance(text, str) or not text.strip():
            raise FactError(f"request {number}: {name} is {text!r}: give it as a non-empty string.")
    assert isinstance(prompt, str)
    assert isinstance(target, str)
    separator = request.get("separator", " ")
    if SLOT not in prompt:
        return prompt, target, separator
    if not isinstance(subject, str):
        raise FactError(f"request {number}: subject is {subject!r}: prompt {prompt!r} has a '{{}}' for it, so give it.")
    return prompt.replace(SLOT, subject), target, separator
