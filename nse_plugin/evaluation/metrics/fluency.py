"""Fluency: the n-gram entropy of what the model writes; a model that repeats itself scores low.

As in ROME (Meng et al. 2022, arXiv 2202.05262, section 3.4, "generation entropy", after Zhang et al. 2018):
the mean of 2/3 times the bi-gram and 4/3 times the tri-gram entropy, in bits, over the words of a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nse_plugin.facts import Fact
from nse_plugin.models.writing.generation import continue_texts

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

TOKENS = 100  # of a text with its prompt, as ROME's and MEMIT's evaluation counts them
NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def generation_prompts(fact: Fact) -> tuple[str, ...]:
    """What the model continues: the fact's own generation prompts, as in CounterFact, or else its prompt."""
    return fact.generation_prompts or (fact.text,)


def fluency(texts: Sequence[str]) -> float:
    """Mean entropy (bits) of texts, as of `continuations`; the papers print it times 100.

    Words are those of nltk's NLTKWordTokenizer, which needs no download; the papers also split into sentences
    first, which moves a few full stops.
    """
    return float(np.mean([text_entropy(text) for text in texts]))


def text_entropy(text: str) -> float:
    """Weighted bi- and tri-gram entropy (bits) of one text; 0 for a text of fewer than two words."""
    from nltk.tokenize import NLTKWordTokenizer

    words = NLTKWordTokenizer().tokenize(text)
    return float(np.mean([weight * ngram_entropy(words, n) for n, weight in NGRAM_WEIGHTS.items()]))


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """Entropy -sum f log2 f (bits) of the relative frequencies f of the n-grams; 0 when there are none."""
    counts = np.array(list(Counter(zip(*(words[i:] for i in range(n)), strict=False)).values()), dtype=float)
    frequencies = counts / counts.sum()
    return float(-(frequencies * np.log2(frequencies)).sum())


def continuations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    tokens: int | None = None,
    seed: int = 0,
    rows_per_batch: int = 64,
) -> list[str]:
    """What the model writes after each prompt, each token drawn from the 5 most likely.

    tokens: how many to write; None: until a text has `TOKENS` with its prompt, as the papers' Fluency is taken.
    Every draw depends on the seed, the prompt's place in the list and the token's place in the text, on nothing else:
    batching and torch's global generator leave the texts as they are. Special tokens are never drawn: an end of text
    would make texts of different lengths, whose entropies do not compare.

    Returns the texts, each with its prompt. Raises ValueError for a prompt longer than the model's positions.
    """
    total = TOKENS if tokens is None else None
    return continue_texts(
        model, tokenizer, prompts, new_tokens=tokens, total_tokens=total, seed=seed, rows_per_batch=rows_per_batch
    )
