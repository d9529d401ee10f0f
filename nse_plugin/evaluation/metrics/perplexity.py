"""Perplexity of a held-out text: the cost of editing for the language model as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nse_plugin.evaluation.windows import text_windows
from nse_plugin.models.batching import batches_by_length, padding_is_safe
from nse_plugin.models.frozen import frozen
from nse_plugin.models.inputs import input_device
from nse_plugin.models.prompts import pad_right

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POSITIONS = 64  # whose losses are computed at once


def perplexity(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    window: int = 512,
    max_tokens: int | None = None,
    tokens_per_batch: int = 1024,
) -> float:
    """Return the perplexity of a text: exp of the mean negative log-likelihood per token.

    The whole text is tokenised, truncated to `max_tokens` tokens (None: not truncated), and split into non-overlapping
    windows of `window` tokens (fewer if the model has fewer positions). The first token of each window is context only
    and is not scored. Rows are padded here; the tokenizer's padding is not used. tokens_per_batch bounds rows x longest
    row of one forward pass.

    Raises ValueError if window is below 2, or the text has fewer than two tokens.
    """
    windows = text_windows(model, tokenizer, text, window, max_tokens)
    device = input_device(model)
    total = torch.zeros((), dtype=torch.float64)
    with frozen(model), torch.inference_mode():
        lengths = [len(row) for row in windows]
        for chosen in batches_by_length(
            lengths, tokens_per_batch, padded=padding_is_safe(model, max(lengths, default=0))
        ):
            rows, mask = pad_right([windows[i] for i in chosen], device)
            logits = model(input_ids=rows, attention_mask=mask, use_cache=False).logits
            for row, place in enumerate(chosen):
                total += _loss(logits[row, : lengths[place] - 1], rows[row, 1 : lengths[place]])
            del logits  # before the next batch's are computed
    return float((total / sum(len(row) - 1 for row in windows)).exp())


def _loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return the sum of -log P(token), [] float64. logits: [n, vocabulary]. tokens: [n]. `POSITIONS` at a time, because
    the softmax takes as much memory as the logits, and in float32."""
    losses = [
        cross_entropy(logits[first : first + POSITIONS].float(), tokens[first : first + POSITIONS], reduction="none")
        for first in range(0, len(tokens), POSITIONS)
    ]
    return torch.cat(losses).double().sum().cpu()
