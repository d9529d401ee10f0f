"""Consistency: does the model write about the subject as people write about things that have the new property?

As in ROME (Meng et al. 2022, arXiv 2202.05262, section 3.4, "reference score"): the cosine between the unigram TF-IDF
vectors of the model's texts and of reference texts about other subjects for which target_new is true, each joined into
one text. The inverse document frequencies are computed once, over all reference texts. Needs scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def tfidf(documents: Iterable[str]) -> Any:
    """Fit scikit-learn's TfidfVectorizer, with its default settings as in ROME, on the distinct documents.

    Raises ImportError if scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise ImportError("Consistency needs scikit-learn: pip install scikit-learn.") from error
    return TfidfVectorizer().fit(sorted(set(documents)))


def consistency(vectorizer: Any, written: Sequence[str], references: Sequence[str]) -> float:
    """Return the cosine, from 0 to 1, between the joined `written` texts and the joined `references`; 0 if they have no
    word in common. vectorizer: from `tfidf`.
    """
    ours, theirs = vectorizer.transform([" ".join(written), " ".join(references)])  # rows of norm 1 or 0
    return float(ours.multiply(theirs).sum())
