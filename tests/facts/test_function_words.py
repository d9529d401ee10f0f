"""Words that do not tell what a text is about."""

from __future__ import annotations

import pytest

from nse_plugin.facts import function_words
from nse_plugin.facts.function_words import ARTICLES, ASKING, AUXILIARIES, FUNCTION_WORDS, JOINING, PARTICIPLES

SETS = {name: words for name, words in vars(function_words).items() if isinstance(words, frozenset)}


@pytest.mark.parametrize("name", SETS)
def test_they_are_compared_in_lower_case_a_word_each(name):
    assert all(word == word.lower() and len(word.split()) == 1 for word in SETS[name])


def test_which_are_among_which():
    assert ARTICLES | AUXILIARIES <= FUNCTION_WORDS
    assert not PARTICIPLES & FUNCTION_WORDS  # "born" may be left out of a subject, not out of a text
    assert set() == ASKING - FUNCTION_WORDS
    assert {"of", "the", "de"} <= JOINING
