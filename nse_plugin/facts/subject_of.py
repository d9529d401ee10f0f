"""Find the subject of a fact from its texts alone.

The subject is searched for in what the prompt shares with all of its rephrase prompts; if they share nothing, or there
are none, in the whole prompt. It is preferably a name: words with capital letters, the words that join them ("Statue of
Liberty"), or the quotation they are in. In a prompt without names it is a group of content words: the longest shared
one, or the last one that is not what is asked for ("which sea", "the capital of"). The first word of a sentence counts
as a name only if there is no other.

`python -m benchmarks.found_subjects` measures how often this finds the given subject.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from nse_plugin.facts.function_words import (  # fmt: skip
    ARTICLES,
    ASKING,
    AUXILIARIES,
    FUNCTION_WORDS,
    JOINING,
    PARTICIPLES,
    PARTICLES_BEFORE,
    PARTICLES_BEHIND,
    PARTICLES_BETWEEN,
)
from nse_plugin.facts.words import begins_sentence, is_letter, is_unspaced, whole_words

_MOST_JOINING = 2  # at most this many joining words between two words of a name
_BETWEEN_JOINED = re.compile("[ \\-\u2013'\u2019.&/!@(]*")
_WITHIN_JOINED = ("-", "'", "\u2019", ".", "/", "&", "@")
_BESIDE = ("", " ", "-")  # separators between words that belong together
_POSSESSIVE = re.compile("['\u2019]s\\b")
_QUOTED = re.compile(
    "|".join(
        f"{one[0]}([^{one}]+){one[1]}"
        for one in ("\u201c\u201d", "\u201e\u201c", "\u00ab\u00bb", "「」", "『』", "《》", '""')
    )
)

Span = tuple[int, int]  # (start, end) in a text
Part = tuple[int, int]  # (first, last) of the text's words


class UnknownSubjectError(ValueError):
    """The subject cannot be inferred from the texts; the message gives the reason, as a clause."""


def find_subject(prompt: str, rephrase_prompts: Sequence[str] = ()) -> Span:
    """Return the place (start, end) of the subject in `prompt`, which contains it exactly once as a whole word.

    rephrase_prompts: other wordings of the prompt, each with the subject written out. Raises UnknownSubjectError.
    """
    text = _Text(prompt)
    shared = text.shared_with(rephrase_prompts) if rephrase_prompts else []
    if names := text.names(shared, is_shared=True):
        return text.only_one(names, chosen=names[-1])
    names = text.names([text.whole], is_shared=False)
    if names and not begins_sentence(prompt, names[-1][0]):
        return names[-1]
    if groups := text.groups(shared, is_shared=True):
        return text.only_one(groups, chosen=max(groups, key=_length))
    if names:
        return names[-1]
    if any(is_letter(character) and not _has_case(character) for character in prompt):
        raise UnknownSubjectError("its script does not tell a name from other words, and no rephrase prompts share one")
    if groups := text.groups([text.whole], is_shared=False):
        return groups[-1]
    raise UnknownSubjectError("none of its words is likelier than the others")


class _Text:
    """A prompt and its words. A part is (first, last), the numbers of its words; a span is (start, end) in the text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans = list(_words(text))
        self.words = [text[start:end] for start, end in self.spans]
        self.whole = (0, len(self.words) - 1)

    def span(self, first: int, last: int) -> Span:
        return self.spans[first][0], self.spans[last][1]

    def between(self, word: int) -> str:
        """Return the text between a word and the next; after the last word, the rest of the text."""
        following = self.spans[word + 1][0] if word < self.whole[1] else len(self.text)
        return self.text[self.spans[word][1] : following]

    def shared_with(self, others: Sequence[str]) -> list[Part]:
        """Return the parts that all other texts have too, without those inside a longer one."""
        parts: list[Part] = []
        for first in range(len(self.words)):
            last = first - 1
            while last < self.whole[1] and self._is_in_all(others, first, last + 1):
                last += 1
            if last >= first and not (parts and parts[-1][1] >= last):
                parts.append((first, last))
        return parts

    def _is_in_all(self, others: Sequence[str], first: int, last: int) -> bool:
        start, end = self.span(first, last)
        return all(_has(other, self.text[start:end]) for other in others)

    def is_function(self, word: int) -> bool:
        """Whether no subject ends with this word. Within a sentence, any word with a capital letter is a name."""
        text, start = self.words[word], self.spans[word][0]
        if _POSSESSIVE.match(self.text, start - 1):
            return True
        is_name = _has_capital(text) and not begins_sentence(self.text, start)
        return not is_name and text.lower() in FUNCTION_WORDS | PARTICIPLES

    def names(self, parts: Sequence[Part], is_shared: bool) -> list[Span]:
        """Return the names in these parts; one-word names that begin a sentence only if there are no others."""
        within: list[Span] = []
        beginning: list[Span] = []
        for first, last in parts:
            word = first
            while word <= last:
                end = self._end_of_name(word, last)
                name = self._trimmed(word, end) if end >= word else None
                word = max(word, end) + 1
                if name is None:
                    continue
                end = self._end_of_shared(first, *name, last) if is_shared else name[1]
                word = max(word, end + 1)
                span = self._quoted(*self._closed(*self.span(name[0], end)))
                if self.is_unique(span) and any(map(_is_capital, self.text[slice(*span)])):
                    (beginning if name[0] == end and begins_sentence(self.text, span[0]) else within).append(span)
        return within or beginning

    def groups(self, parts: Sequence[Part], is_shared: bool) -> list[Span]:
        """Return groups of adjacent content words: those with a possessive 's, else those that are not what is asked
        for, else, if the parts are shared with the rephrase prompts, all."""
        owning: list[Span] = []
        free: list[Span] = []
        asked: list[Span] = []
        for first, last in parts:
            word = first
            while word <= last:
                end = word - 1
                while end < last and not self.is_function(end + 1) and (end < word or self.between(end) in _BESIDE):
                    end += 1
                span = _without_particles(self.text, *self.span(word, end)) if end >= word else None
                if span is not None and self.is_unique(span):
                    is_owning = _POSSESSIVE.match(self.text, span[1]) is not None
                    (owning if is_owning else asked if self._is_asked(word, end) else free).append(span)
                word = max(word, end) + 1
        return owning or free or (asked if is_shared else [])

    def only_one(self, spans: Sequence[Span], chosen: Span) -> Span:
        """Return `chosen`. Raises UnknownSubjectError if another span is equally long."""
        for span in spans:
            if span != chosen and _length(span) == _length(chosen):
                one, other = (self.text[slice(*place)] for place in sorted((span, chosen)))
                raise UnknownSubjectError(f"its rephrase prompts share {one!r} and {other!r}, which are equally long")
        return chosen

    def is_unique(self, span: Span) -> bool:
        """Whether the span's text occurs exactly once as a whole word, so that its place is unambiguous."""
        return whole_words(self.text[slice(*span)], self.text) == [span]

    def _end_of_name(self, word: int, last: int) -> int:
        """Return the last word of the name that begins with `word`; `word` - 1 if it begins no name."""
        if not _has_capital(self.words[word]):
            return word - 1
        end = word
        while end < last:
            if self.between(end) in _WITHIN_JOINED and not self.is_function(end + 1):
                end += 1
                continue
            following = end + 1
            while following < last and following - end <= _MOST_JOINING and self.words[following] in JOINING:
                following += 1
            gaps = "".join(self.between(place) for place in range(end, following))
            if not (_has_capital(self.words[following]) and _BETWEEN_JOINED.fullmatch(gaps)):
                break
            end = following
        return end

    def _end_of_shared(self, part: int, first: int, last: int, end: int) -> int:
        """Extend a name by the lower-case words after it ("Lancashire wrestling") if the shared part begins with the
        name, and return its last word. Elsewhere these words may be the verb of a question ("does Lancashire play")."""
        begins_part = all(self.is_function(word) for word in range(part, first))
        if not begins_part or (first > 0 and self.words[first - 1].lower() in AUXILIARIES):
            return last
        while last < end and self.between(last) in (" ", "-"):
            if self.is_function(last + 1) or self.words[last + 1].endswith("ed"):
                break
            last += 1
        return last

    def _trimmed(self, first: int, last: int) -> Part | None:
        """Remove function words at both ends, except an article that belongs to a name ("The Hague")."""
        while first <= last and self.is_function(first):
            if first < last and self.words[first].lower() in ARTICLES and _has_capital(self.words[first + 1]):
                break
            first += 1
        while first <= last and self.is_function(last):
            last -= 1
        return (first, last) if first <= last else None

    def _closed(self, start: int, end: int) -> Span:
        """Include the closing bracket, or a mark that is part of the name since the sentence continues ("Yahoo!
        was")."""
        after = self.text[end : end + 3]
        is_bracket = after[:1] == ")" and "(" in self.text[start:end]
        goes_on = after[:1] in (".", "!", "?") and after[1:2] == " " and after[2:].islower()
        return (start, end + 1) if is_bracket or goes_on else (start, end)

    def _quoted(self, start: int, end: int) -> Span:
        """Return the span of the quotation that contains this span; without one, the span itself."""
        for found in _QUOTED.finditer(self.text):
            quoted = found.span(found.lastindex or 0)
            if quoted[0] <= start and end <= quoted[1]:
                return quoted
        return start, end

    def _is_asked(self, first: int, last: int) -> bool:
        """Whether this part is what is asked for, as in "which sea", "the capital of", "a product developed by"."""
        before = self.words[first - 1].lower() if first else ""
        after = self.words[last + 1].lower() if last < self.whole[1] and self.between(last) == " " else ""
        if after in PARTICIPLES:
            return before not in AUXILIARIES
        return before in ASKING or (after in FUNCTION_WORDS and after not in AUXILIARIES)


def _words(text: str) -> Iterator[Span]:
    """Yield the words; in Korean and in scripts without spaces, each letter is a word."""
    start = 0
    while start < len(text):
        end = start + 1
        if is_letter(text[start]):
            while end < len(text) and _is_inside(text[end - 1], text[end]):
                end += 1
            yield start, end
        start = end


def _is_inside(left: str, right: str) -> bool:
    """Whether two neighbouring characters are in the same word of `_words`."""
    if not (is_letter(left) and is_letter(right)):
        return False
    is_mark = unicodedata.category(right)[0] == "M"
    return is_mark or not any(is_unspaced(one) or _is_hangul(one) for one in (left, right))


def _is_hangul(character: str) -> bool:
    return unicodedata.name(character, "").startswith("HANGUL")


def _has(text: str, part: str) -> bool:
    """Whether a text contains the part as whole words, ignoring case. A Korean word may continue after it."""
    for found in re.finditer(re.escape(part), text, re.IGNORECASE):
        start, end = found.span()
        is_begun = start > 0 and _is_inside(text[start - 1], text[start])
        is_begun = is_begun or (start > 0 and _is_hangul(text[start - 1]) and _is_hangul(text[start]))
        if not is_begun and not (end < len(text) and _is_inside(text[end - 1], text[end])):
            return True
    return False


def _is_capital(character: str) -> bool:
    return character.isupper() or character.istitle()


def _has_capital(word: str) -> bool:
    return any(_is_capital(character) or character.isdigit() for character in word)


def _has_case(character: str) -> bool:
    """Whether the character belongs to a script with capital letters, or is a digit or a mark."""
    return character.upper() != character.lower() or unicodedata.category(character)[0] in "NM"


def _without_particles(text: str, start: int, end: int) -> Span | None:
    """In scripts without spaces, and in Korean, remove the particles around a name.

    Returns None for a single letter, which two names may share. Raises UnknownSubjectError if a particle is left
    inside: the text may then be a name together with what is asked about it.
    """
    if not any(is_unspaced(one) or _is_hangul(one) for one in text[start:end]):
        return start, end
    while before := next((one for one in PARTICLES_BEFORE if text[start:end].startswith(one)), ""):
        start += len(before)
    while after := next((one for one in PARTICLES_BEHIND if text[start:end].endswith(one)), ""):
        end -= len(after)
    inside = text[start:end]
    if any(one in inside for one in PARTICLES_BETWEEN):
        raise UnknownSubjectError(f"its rephrase prompts share {inside!r}, which may be more than the subject")
    return (start, end) if len(inside) > 1 else None


def _length(span: Span) -> int:
    return span[1] - span[0]
