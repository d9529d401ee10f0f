"""Helpers for messages to users: suggested names, numbers of things, one-line errors."""

from __future__ import annotations

import pytest

from nse_plugin.facts import FactError
from nse_plugin.support.suggestions import did_you_mean, in_a_line, number_of


def test_the_nearest_name_or_all_there_are():
    known = ["alpha", "layers", "p"]
    assert did_you_mean("layer", known) == "did you mean 'layers'?"
    assert did_you_mean(7, known) == "there are alpha, layers, p."
    assert did_you_mean("x", []) == "there are none."
    assert did_you_mean("zzz", known, otherwise="see --help.") == "see --help."
    assert did_you_mean("alto", known, cutoff=0.9) == "there are alpha, layers, p."


@pytest.mark.parametrize(("count", "words"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells"), (1000, "1,000 cells")])
def test_numbers_of_things(count, words):
    assert number_of(count, "cell") == words


def test_an_error_in_one_line():
    assert in_a_line(FactError("prompt is ''.\nGive it.")) == "prompt is ''. Give it."
    assert in_a_line(IndexError("too\n  many")) == "IndexError: too many"
