"""Find names of a subject that occur in a fact's own texts but that the fact is not written for.

An edit works for the names it is written for. A rephrase prompt with another name will most likely not get the new
target, which is easily mistaken for a fault of the edit.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from nse_plugin.facts.fact import Fact
from nse_plugin.facts.words import begins_sentence, whole_words
from nse_plugin.support.suggestions import number_of

log = logging.getLogger(__name__)

_ARTICLES = ("the ", "a ", "an ")
_SHORTEST_SURNAME = 4  # letters


def left_out_names(facts: Sequence[Fact]) -> Iterator[tuple[Fact, str]]:
    """Yield (fact, name) for each fact with such a name: the first one in a rephrase or generation prompt that has none
    of the fact's names.

    These names are: an alias given in another fact about the subject; a name of the fact in different case
    ("munich"), except the first letter of a sentence; a name without its article; the last word of a name, if no other
    name is next to it ("Einstein").
    """
    aliases: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        aliases[fact.subject.strip()].update(fact.names[1:])
    for fact in facts:
        names = [name.strip() for name in fact.names]
        for text in (*fact.rephrase_prompts, *fact.generation_prompts):
            is_named = any(name in text for name in names)
            if not is_named and (name := _other_name(text, names, aliases[names[0]])):
                yield fact, name
                break


def warn_of_left_out_names(facts: Sequence[Fact]) -> None:
    """Log one warning for all facts of a round with such a name."""
    found = list(left_out_names(facts))
    if found:
        fact, name = found[0]
        log.warning(
            "In %s, a rephrase or generation prompt calls the subject by a name that the fact does not give; the first "
            "is %r, with %r. The edit is not made for such a name unless it is among the fact's `aliases` (a field in "
            "Python and JSON, a column in CSV).", number_of(len(found), "fact"), fact.text, name,
        )  # fmt: skip


def _other_name(text: str, names: Sequence[str], others: Collection[str]) -> str | None:
    for name in sorted(others):
        if whole_words(name.strip(), text):
            return name
    for name in names:
        article = next((one for one in _ARTICLES if name.lower().startswith(one)), "")
        bare = name[len(article) :]
        for start, end in whole_words(bare, text, re.IGNORECASE):
            is_capital_of_sentence = begins_sentence(text, start) and text[start + 1 : end] == bare[1:]
            if article or not is_capital_of_sentence:
                return text[start:end]
        if surname := _surname(name):
            for start, end in whole_words(surname, text):
                if not _is_beside_name(text, start, end):
                    return surname
    return None


def _surname(name: str) -> str | None:
    """Return the last word of a name of several words that all begin with a capital letter, or None."""
    *first, last = name.split()
    is_name = first and all(word[0].isupper() for word in (*first, last)) and len(last) >= _SHORTEST_SURNAME
    return last if is_name and last.isalpha() else None


def _is_beside_name(text: str, start: int, end: int) -> bool:
    """Whether a capitalised word comes before or after text[start:end], so that it is part of another name."""
    after = re.match("(?:[ \\-]|['\u2019]s )*(\\w)", text[end:])
    before = re.search(r"(\w+)[ \-.]*$", text[:start])
    if after and after[1].isupper():
        return True
    return before is not None and before[1][0].isupper() and not begins_sentence(text, before.start(1))
