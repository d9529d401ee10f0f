"""Fluency: the n-gram entropy of generated text; a model that repeats itself has a low entropy.

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

TOKENS = 100  # length of a text including its prompt, as in ROME's and MEMIT's evaluation
NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def generation_prompts(fact: Fact) -> tuple[str, ...]:
    """Return the prompts that the model continues: the fact's generation prompts, as in CounterFact, or its prompt."""
    return fact.generation_prompts or (fact.text,)


def fluency(texts: Sequence[str]) -> float:
    """Return the mean entropy (bits) of texts, such as those of `continuations`; the papers report it times 100.

    Words are split by nltk's NLTKWordTokenizer, which needs no download; the papers also split into sentences first,
    which changes the tokens of a few full stops.
    """
    return float(np.mean([text_entropy(text) for text in texts]))


def text_entropy(text: str) -> float:
    """Return the weighted bi- and tri-gram entropy (bits) of one text; 0 if it has fewer than two words."""
    from nltk.tokenize import NLTKWordTokenizer

    words = NLTKWordTokenizer().tokenize(text)
    return float(np.mean([weight * ngram_entropy(words, n) for n, weight in NGRAM_WEIGHTS.items()]))


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """Return the entropy -sum f log2 f (bits) of the relative frequencies f of the n-grams; 0 if there are none."""
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
    """Let the model continue each prompt, sampling each token from the 5 most likely.

    tokens: the number of tokens to generate; None: until a text including its prompt has `TOKENS` tokens, as in the
    papers' Fluency. Every draw depends only on the seed, the prompt's index in the list and the token's index in the
    text, so batching and torch's global generator do not change the texts. Special tokens are never sampled: an end of
    text would give texts of different lengths, whose entropies are not comparable.

    Returns the texts including their prompts. Raises ValueError if a prompt has no tokens, or more than the model
    has positions.
    """
    total = TOKENS if tokens is None else None
    return continue_texts(
        model, tokenizer, prompts, new_tokens=tokens, total_tokens=total, seed=seed, rows_per_batch=rows_per_batch
    )
