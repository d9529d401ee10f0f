"""Split a held-out text into non-overlapping windows of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nse_plugin.models.positions import max_positions
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


def text_windows(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, text: str, window: int, max_tokens: int | None
) -> list[list[int]]:
    """Return the token ids of the text, truncated to `max_tokens` tokens (None: not truncated), in windows of `window`
    tokens (fewer if the model has fewer positions). A last window of a single token is dropped, because the first token
    of a window is context only.

    Raises ValueError if window is below 2, or the text has fewer than two tokens.
    """
    if window < 2:
        raise ValueError(f"window = {window} cannot be used: give 2 tokens or more, the first is context only.")
    window = min(window, max_positions(model.config) or window)
    ids = tokenizer(text, verbose=False)["input_ids"][:max_tokens]
    windows = [row for start in range(0, len(ids), window) if len(row := ids[start : start + window]) > 1]
    if not windows:
        raise ValueError(
            f"text {text!r:.40} is {number_of(len(ids), 'token')} long, and predicting needs two: give a longer text."
        )
    return windows
