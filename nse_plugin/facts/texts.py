"""The texts of a fact: what they may be, and how a prompt and what follows it are joined."""

from __future__ import annotations

from nse_plugin.facts.words import is_letter, is_unspaced

SLOT = "{}"
Pair = tuple[str, str] | tuple[str, str, str]  # a prompt, what follows it, and the separator where one was given


def continuation(prompt: str, target: str, separator: str | None = None) -> str:
    """The target as it follows a prompt.

    Both are taken as they are written; a space at the end of one and the beginning of the other is one space. Where
    neither has white space there, `separator` goes between them; None: a space where the two would otherwise run into
    one word (letters or digits on both sides, of scripts that part words by spaces), and else nothing.
    """
    if prompt[-1:].isspace() or target[:1].isspace():
        return target.removeprefix(" ") if prompt.endswith(" ") else target
    if separator is None:
        is_one_word = all(is_letter(edge) and not is_unspaced(edge) for edge in prompt[-1:] + target[:1])
        separator = " " if is_one_word else ""
    return separator + target


def is_text(value: object) -> bool:
    """Whether a value is a string of whole characters with more than white space."""
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only: no half of one, a lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_pair(value: object) -> bool:
    """Whether a value is a list or tuple of two texts."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(is_text(part) for part in value)
