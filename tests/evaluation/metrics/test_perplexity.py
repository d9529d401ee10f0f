from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from next_word import NextWord

from nse_plugin.evaluation.metrics import perplexity as module
from nse_plugin.evaluation.metrics.perplexity import perplexity

TEXT = "The capital of France is Paris . Lima is a city in Peru . we saw a red boat in Los Angeles . Rome is in Italy ."


def test_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab())
    # "is" is context; then Paris (1/2), and, after "Paris", one word of all alike
    assert perplexity(model, tokenizer, "is Paris Los") == pytest.approx(math.sqrt(2 * len(tokenizer)), rel=1e-6)
    # a window of two scores Paris only; "Los" is the next window's context, and alone in it
    assert perplexity(model, tokenizer, "is Paris Los", window=2) == pytest.approx(2, rel=1e-6)
    assert perplexity(model, tokenizer, "is Paris Los Angeles", window=2) == pytest.approx(math.sqrt(2 * 16), rel=1e-6)
    assert perplexity(model, tokenizer, "is Paris Los Angeles", max_tokens=2) == pytest.approx(2, rel=1e-6)


def window_by_window(model: Any, tokenizer: Any, text: str, window: int) -> float:
    """The definition, each window alone."""
    ids = tokenizer(text)["input_ids"]
    losses = []
    for start in range(0, len(ids), window):
        row = ids[start : start + window]
        logprobs = model(torch.tensor([row])).logits[0].detach().log_softmax(-1)
        losses += [-float(logprobs[i - 1, row[i]]) for i in range(1, len(row))]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tokens_per_batch", [1, 14, 10_000])
@pytest.mark.parametrize("window", [5, 7, 512])
def test_as_the_definition_whatever_the_batch(
    model: Any, tokenizer: Any, window: int, tokens_per_batch: int, side: str
) -> None:
    tokenizer.padding_side = side
    found = perplexity(model, tokenizer, TEXT, window, tokens_per_batch=tokens_per_batch)
    assert found == pytest.approx(window_by_window(model, tokenizer, TEXT, window), rel=1e-5)


def test_no_window_is_longer_than_the_model_reads(model: Any, tokenizer: Any, rows_read: list[list[int]]) -> None:
    perplexity(model, tokenizer, f"{TEXT} {TEXT} {TEXT}")
    assert max(len(row) for row in rows_read) == model.config.max_position_embeddings


def test_the_softmax_is_taken_of_few_positions_at_a_time(model: Any, tokenizer: Any, monkeypatch: Any) -> None:
    expected = perplexity(model, tokenizer, TEXT, window=7)
    lengths: list[int] = []

    def noted(logits: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        lengths.append(len(logits))
        return torch.nn.functional.cross_entropy(logits, *arguments, **named)

    monkeypatch.setattr(module, "POSITIONS", 4)
    monkeypatch.setattr(module, "cross_entropy", noted)
    assert perplexity(model, tokenizer, TEXT, window=7) == pytest.approx(expected, rel=1e-12)
    assert set(lengths) >= {4, 2}  # six positions of a window are scored
    assert max(lengths) == 4


@pytest.mark.parametrize("text", ["", "  \n", "Peru"])
def test_a_text_with_nothing_to_predict_is_refused(model: Any, tokenizer: Any, text: str) -> None:
    with pytest.raises(ValueError, match="predicting needs two: give a longer text"):
        perplexity(model, tokenizer, text)


def test_a_window_with_nothing_to_predict_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="window = 1 cannot be used"):
        perplexity(model, tokenizer, TEXT, window=1)
