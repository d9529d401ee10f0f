"""Boundaries of words, in scripts with and without spaces between words, and beginnings of sentences."""

from __future__ import annotations

import re
import unicodedata

# Scripts with spaces between words, and without particles attached to words.
_SPACED = ("LATIN", "GREEK", "CYRILLIC", "DIGIT")
# Scripts without spaces between words, by the Unicode names of their letters.
_UNSPACED = (
    "CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "FULLWIDTH", "IDEOGRAPHIC", "BOPOMOFO", "YI", "THAI", "LAO", "KHMER",
    "MYANMAR", "TIBETAN",
)  # fmt: skip
_OPENING = (
    " \"'([\u201c\u2018\u201e\u00ab\u300c\u300e\u300a\u00bf\u00a1"  # quotation marks and brackets before a sentence
)
_ENDS_OF_SENTENCES = ".?!:;\n"


def is_letter(character: str) -> bool:
    """Whether a character is a letter, a digit, or a mark that belongs to one: a Devanagari word may end in a vowel
    mark."""
    return unicodedata.category(character)[0] in "LNM"


def is_unspaced(character: str) -> bool:
    """Whether a character belongs to a script without spaces between words."""
    return unicodedata.name(character, "").startswith(_UNSPACED)


def whole_words(part: str, text: str, flags: int = 0) -> list[tuple[int, int]]:
    """Return (start, end) of every occurrence of a part as whole words of a text. flags: for `re`."""
    found = (place.span() for place in re.finditer(re.escape(part), text, flags))
    return [place for place in found if not _is_within_word(text, *place)]


def _is_within_word(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is a part of a longer word."""
    edges = ((start - 1, start), (end - 1, end))
    return any(left >= 0 and right < len(text) and _are_joined(text[left], text[right]) for left, right in edges)


def _are_joined(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word. Letters never do in scripts without spaces, e.g.
    Chinese."""
    letters = all(unicodedata.name(character, "").startswith(_SPACED) for character in (left, right))
    return bool(unicodedata.combining(right)) or (letters and left.isalnum() and right.isalnum())


def begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(_OPENING)
    return not before or before[-1] in _ENDS_OF_SENTENCES
