"""Fluency: the n-gram entropy of what the model writes; a model that repeats itself scores low.

As in ROME (Meng et al. 2022, arXiv 2202.05262, section 3.4, "generation entropy", after Zhang et al. 2018):
the mean of 2/3 times the bi-gram and 4/3 times the tri-gram entropy, in bits, over the words of a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nse_plugin.models.frozen import frozen
from nse_plugin.models.prompts import pad_right

NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
TOP_K = 5


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
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    tokens: int = 100,
    seed: int = 0,
    rows_per_batch: int = 64,
) -> list[str]:
    """What the model writes after each prompt: `tokens` tokens, each drawn from the 5 most likely.

    Every draw depends on the seed, the prompt's place in the list and the token's place in the text, on
    nothing else: batching and torch's global generator leave the texts as they are. Special tokens are never
    drawn: an end of text would make texts of different lengths, whose entropies do not compare.

    Returns the texts, each with its prompt.
    """
    generators = [np.random.default_rng((seed, place)) for place in range(len(prompts))]
    draws = torch.from_numpy(np.stack([generator.random(tokens) for generator in generators]))
    texts: list[str] = []
    with frozen(model), torch.inference_mode():
        for first in range(0, len(prompts), rows_per_batch):
            rows = slice(first, first + rows_per_batch)
            texts += _continue(model, tokenizer, prompts[rows], draws[rows])
    return texts


def _continue(model: Any, tokenizer: Any, prompts: Sequence[str], draws: Tensor) -> list[str]:
    """Write `tokens` tokens after each of B prompts; draws: float64 [B, tokens], uniform in [0, 1)."""
    device = model.get_input_embeddings().weight.device
    read = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    ids, mask = _pad_left(read, device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache, written = None, []
    for draw in draws.to(device).T:
        out = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )  # fmt: skip
        cache = out.past_key_values
        ids = _drawn(out.logits[:, -1].float(), draw, tokenizer.all_special_ids)[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
        written.append(ids)
    new = torch.cat(written, dim=1).tolist()
    return [tokenizer.decode([*a, *b], skip_special_tokens=True) for a, b in zip(read, new, strict=True)]


def _drawn(logits: Tensor, draw: Tensor, never: Sequence[int]) -> Tensor:
    """One token a row, [B]: the `draw` quantile of the TOP_K most likely, best first; logits: [B, V]."""
    logits[:, list(never)] = -torch.inf
    likely, tokens = logits.topk(TOP_K, dim=-1)
    passed = likely.double().softmax(dim=-1).cumsum(dim=-1) <= draw[:, None]
    choice = passed.sum(dim=-1, keepdim=True).clamp(max=TOP_K - 1)  # the sum may round to just below 1
    return tokens.gather(1, choice)[:, 0]


def _pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, longest], padded on the left: every row's next token comes at the same place."""
    ids, mask = pad_right([row[::-1] for row in rows], device)
    return ids.flip(1), mask.flip(1)
