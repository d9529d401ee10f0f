"""Splitting a text into windows for a language model."""

from __future__ import annotations

import pytest

from nse_plugin.evaluation.windows import text_windows

TEXT = "The capital of France is in Paris . we saw"  # ten words, a token each


@pytest.mark.parametrize(
    ("window", "max_tokens", "lengths"),
    [(4, None, [4, 4, 2]), (3, None, [3, 3, 3]), (10, 7, [7]), (500, None, [10]), (2, 3, [2])],
)
def test_windows_do_not_overlap_and_a_last_single_token_is_left_out(model, tokenizer, window, max_tokens, lengths):
    rows = text_windows(model, tokenizer, TEXT, window, max_tokens)
    assert [len(row) for row in rows] == lengths
    assert [token for row in rows for token in row] == tokenizer(TEXT)["input_ids"][: sum(lengths)]


def test_no_window_is_longer_than_the_models_positions(model, tokenizer):
    assert [len(row) for row in text_windows(model, tokenizer, " ".join([TEXT] * 10), 100, None)] == [64, 36]


@pytest.mark.parametrize(
    ("text", "window", "words"),
    [(TEXT, 1, "window = 1 cannot be used: give 2 tokens or more"), ("Paris", 4, "is 1 token long, and predicting")],
)
def test_what_cannot_be_read_is_refused(model, tokenizer, text, window, words):
    with pytest.raises(ValueError, match=words):
        text_windows(model, tokenizer, text, window, None)
