from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from nse_plugin.evaluation.metrics.fluency import (
    continuations,
    fluency,
    generation_prompts,
    ngram_entropy,
    text_entropy,
)
from nse_plugin.facts import Fact

PROMPTS = ["The capital of France is", "Peru", "we saw a red boat in Los Angeles .", "Rome is", "a city"]


def test_entropy_by_hand() -> None:
    words = ["a", "b", "a", "b"]
    bigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # (a b) twice, (b a) once
    assert ngram_entropy(words, 2) == pytest.approx(bigrams)
    assert ngram_entropy(words, 3) == pytest.approx(1.0)  # (a b a), (b a b)
    assert text_entropy("a b a b") == pytest.approx((2 / 3 * bigrams + 4 / 3 * 1.0) / 2)


def test_words_are_nltks() -> None:
    # do n't . are two bigrams (1 bit) and one trigram (0 bits)
    assert text_entropy("don't.") == pytest.approx((2 / 3 * 1.0 + 4 / 3 * 0.0) / 2)


def test_entropy_of_too_few_words_is_zero() -> None:
    assert text_entropy("") == text_entropy("word") == 0.0


def test_repetition_scores_low() -> None:
    assert text_entropy("again and " * 20) < 2 < text_entropy(" ".join(map(str, range(40))))


def test_fluency_is_the_mean() -> None:
    assert fluency(["a b a b", "word"]) == pytest.approx(text_entropy("a b a b") / 2)


def test_a_fact_writes_after_its_own_prompts_or_else_after_its_prompt() -> None:
    assert generation_prompts(Fact("{} is in", "Peru", "Italy")) == ("Peru is in",)
    prompts = ("we saw Peru", "Peru", "Peru")
    assert generation_prompts(Fact("{} is in", "Peru", "Italy", generation_prompts=prompts)) == prompts


def written_without_batch_or_cache(model: Any, tokenizer: Any, place: int, tokens: int, seed: int) -> str:
    """The definition: at each step the `draw` quantile of the five most likely words, most likely first."""
    ids = tokenizer(PROMPTS[place])["input_ids"]
    for draw in np.random.default_rng((seed, place)).random(tokens):
        logits = model(torch.tensor([ids])).logits[0, -1].detach().numpy()
        logits[tokenizer.all_special_ids] = -np.inf
        five = np.argsort(-logits)[:5]
        weights = np.exp(logits[five]) / np.exp(logits[five]).sum()
        ids.append(int(five[np.searchsorted(weights.cumsum(), draw, side="right")]))
    return tokenizer.decode(ids)


@pytest.mark.parametrize("rows_per_batch", [1, 2, 64])
def test_batches_write_what_the_definition_does(model: Any, tokenizer: Any, rows_per_batch: int) -> None:
    places = range(len(PROMPTS))
    expected = [written_without_batch_or_cache(model, tokenizer, place, 12, seed=3) for place in places]
    found = continuations(model, tokenizer, PROMPTS, tokens=12, seed=3, rows_per_batch=rows_per_batch)
    assert found == expected


def test_the_seed_decides(model: Any, tokenizer: Any) -> None:
    torch.manual_seed(0)
    first = continuations(model, tokenizer, PROMPTS, tokens=12, seed=0)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert continuations(model, tokenizer, PROMPTS, tokens=12, seed=0) == first
    assert continuations(model, tokenizer, PROMPTS, tokens=12, seed=1) != first
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), after)  # the global generator was not drawn from


def test_more_tokens_begin_with_the_same_text(model: Any, tokenizer: Any) -> None:
    short = continuations(model, tokenizer, PROMPTS, tokens=4)
    long = continuations(model, tokenizer, PROMPTS, tokens=9)
    assert all(b.startswith(a) for a, b in zip(short, long, strict=True))


def test_special_tokens_are_never_drawn(model: Any, tokenizer: Any) -> None:
    [text] = continuations(model, tokenizer, ["Peru"], tokens=40)
    assert len(text.split()) == 41


def test_texts_are_as_long_as_the_papers_with_their_prompts(model: Any, tokenizer: Any, monkeypatch: Any) -> None:
    """ROME's and MEMIT's evaluation: 100 tokens in all; fewer where the model has fewer positions."""
    prompts = ["a city", " ".join(["Peru"] * 20), " ".join(["Peru"] * 50)]
    assert [len(text.split()) for text in continuations(model, tokenizer, prompts)] == [64] * 3
    monkeypatch.setattr(model.config, "max_position_embeddings", 200)
    assert [len(text.split()) for text in continuations(model, tokenizer, prompts)] == [100] * 3
    monkeypatch.setattr("nse_plugin.evaluation.metrics.fluency.TOKENS", 30)
    assert continuations(model, tokenizer, prompts[2:]) == prompts[2:]
