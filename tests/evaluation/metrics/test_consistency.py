from __future__ import annotations

import math
import sys
from collections import Counter

import pytest

from nse_plugin.evaluation.metrics.consistency import consistency, tfidf

DOCUMENTS = ["paris is a city", "paris and rome", "a red boat is red"]


def cosine(written: str, references: str) -> float:
    """The definition: counts times (ln((1 + n) / (1 + n_w)) + 1), over words of two letters or more."""
    split = [[word for word in document.split() if len(word) > 1] for document in DOCUMENTS]
    seen = Counter(word for words in split for word in set(words))
    weights = {word: math.log((1 + len(split)) / (1 + count)) + 1 for word, count in seen.items()}
    a, b = (
        {word: text.split().count(word) * weight for word, weight in weights.items()} for text in (written, references)
    )
    norms = math.hypot(*a.values()) * math.hypot(*b.values())
    return sum(a[word] * b[word] for word in weights) / norms


def test_by_hand() -> None:
    vectorizer = tfidf([*DOCUMENTS, DOCUMENTS[0]])  # a text that two facts share is counted once
    written, references = ["paris is red", "paris"], ["rome and paris", "paris is a city"]
    expected = cosine("paris is red paris", "rome and paris paris is a city")
    assert 0.2 < expected < 0.9
    assert consistency(vectorizer, written, references) == pytest.approx(expected, abs=1e-12)


def test_its_range() -> None:
    vectorizer = tfidf(DOCUMENTS)
    assert consistency(vectorizer, ["Paris, is!"], ["is paris"]) == pytest.approx(1.0)
    assert consistency(vectorizer, ["red boat"], ["rome"]) == 0.0
    assert consistency(vectorizer, ["words never seen"], ["rome"]) == 0.0


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ImportError, match="Consistency needs scikit-learn: pip install scikit-learn"):
        tfidf(DOCUMENTS)
