"""Where words and sentences begin and end."""

from __future__ import annotations

import re

import pytest

from nse_plugin.facts.words import begins_sentence, is_letter, is_unspaced, whole_words


@pytest.mark.parametrize(
    ("part", "text", "found"),
    [
        ("Paris", "Paris, Parisian Paris", [(0, 5), (16, 21)]),
        ("art", "the artist's art.", [(13, 16)]),
        ("France", "France's", [(0, 6)]),
        ("(1)", "a (1) b", [(2, 5)]),
        ("日本", "日本の首都", [(0, 2)]),  # the script does not tell where a word ends
        ("Cafe", "Cafe\u0301", []),  # its last letter has an accent
        ("Rom", "Roma", []),
    ],
)
def test_whole_words(part, text, found):
    assert whole_words(part, text) == found


def test_flags_are_those_of_re():
    assert whole_words("rome", "Rome") == []
    assert whole_words("rome", "Rome", re.IGNORECASE) == [(0, 4)]


def test_letters_and_scripts():
    assert [is_letter(character) for character in "aé1ि日 -."] == [True] * 5 + [False] * 3
    assert [is_unspaced(character) for character in "日のไa한"] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("text", "begins"), [("", True), ("He said. ", True), ("He said: “", True), ("¿", True), ("in ", False)]
)
def test_where_a_sentence_begins(text, begins):
    assert begins_sentence(f"{text}Rome is old", len(text)) is begins
