"""Check the texts of a fact, and join a prompt with its continuation."""

from __future__ import annotations

from nse_plugin.facts.words import is_letter, is_unspaced

SLOT = "{}"
Pair = tuple[str, str] | tuple[str, str, str]  # prompt, continuation and, if given, separator


def continuation(prompt: str, target: str, separator: str | None = None) -> str:
    """Return the target as it continues a prompt, with the separator between them.

    Both are used as written, but a space at the end of the prompt and one at the beginning of the target count once. If
    neither has white space there, `separator` goes between them. None: a space if the two would otherwise run into one
    word (letters or digits on both sides, in scripts with spaces between words), otherwise nothing.
    """
    if prompt[-1:].isspace() or target[:1].isspace():
        return target.removeprefix(" ") if prompt.endswith(" ") else target
    if separator is None:
        is_one_word = all(is_letter(edge) and not is_unspaced(edge) for edge in prompt[-1:] + target[:1])
        separator = " " if is_one_word else ""
    return separator + target


def is_text(value: object) -> bool:
    """Whether a value is a string of valid characters and not only white space."""
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def is_unicode(text: str) -> bool:
    """Whether a text has only whole characters, i.e. no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def is_pair(value: object) -> bool:
    """Whether a value is a list or tuple of two texts."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(is_text(part) for part in value)
