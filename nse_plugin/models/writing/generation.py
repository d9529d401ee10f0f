"""Text generation: the single entry point for templates, fluency, free answers and the other methods' samplers.

The end-of-text token that some tokenizers append to a prompt is removed, or the model would begin another document.
Texts never exceed the model's positions. Special tokens are never sampled, so that texts have the requested length. The
same seed gives the same text, whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from nse_plugin.models.chat import PLAIN, Frame
from nse_plugin.models.positions import check_room, max_positions
from nse_plugin.models.prompts import without_end
from nse_plugin.models.writing.sampling import uniform_draws, write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOP_K = 5  # number of most likely tokens to sample from, as in ROME's generation


def continue_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    new_tokens: int | None = None,
    total_tokens: int | None = None,
    top_k: int = TOP_K,
    seed: int = 0,
    places: Iterable[int] | None = None,
    rows_per_batch: int = 64,
) -> list[str]:
    """Sample a continuation of each prompt, each token drawn from the `top_k` most likely ones.

    new_tokens: how many tokens to write. total_tokens: instead, the length of the text including its prompt; a prompt
    that is already as long is returned unchanged. In both cases a text ends at the model's last position at the latest.
    seed, places: every draw depends only on the seed, the prompt's place (None: its index in the list) and the token's
    number.

    Returns the texts, each with its prompt. Raises ValueError as `encoded` does.
    """
    rows = [encoded(model, tokenizer, prompt) for prompt in prompts]
    lengths = [_length(model, len(row), new_tokens, total_tokens) for row in rows]
    numbers = range(len(rows)) if places is None else list(places)
    texts: list[str] = []
    for first in range(0, len(rows), rows_per_batch):
        chosen = range(first, min(first + rows_per_batch, len(rows)))
        most = max(lengths[i] - len(rows[i]) for i in chosen)
        draws = uniform_draws(seed, [numbers[i] for i in chosen], most)
        written = write(model, [rows[i] for i in chosen], draws, tokenizer.all_special_ids, top_k)
        cut = [row[: lengths[i]] for i, row in zip(chosen, written, strict=True)]
        texts += tokenizer.batch_decode(cut, skip_special_tokens=True)
    return texts


def greedy_answers(
    model: nn.Module, rows: Sequence[Sequence[int]], new_tokens: int, ends: Collection[int]
) -> list[list[int]]:
    """Return up to `new_tokens` most likely tokens after each row of token ids, ending before the first of `ends`."""
    always_first = torch.zeros(len(rows), new_tokens, dtype=torch.float64)
    written = write(model, rows, always_first, never=(), top_k=1, ends=ends)
    answers = [whole[len(row) :] for row, whole in zip(rows, written, strict=True)]
    return [_before(answer, ends) for answer in answers]


def encoded(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, room: int = 0, frame: Frame = PLAIN
) -> list[int]:
    """Tokenise a prompt without an end of text. room: how many tokens are to follow. frame: plain text or a chat.
    Raises ValueError as `check_prompt` does."""
    ids = without_end(tokenizer, frame.around(prompt))
    check_prompt(model, prompt, ids, room)
    return ids


def check_prompt(model: nn.Module, prompt: str, ids: Sequence[int], room: int = 0) -> None:
    """Raise ValueError if a prompt has no tokens, or leaves no room for `room` more tokens in the model's positions."""
    if not ids:
        raise ValueError(f"prompt {prompt!r:.60} has no tokens: give a text that the tokenizer knows.")
    check_room(prompt, len(ids) + room, f" with room for {room} more" if room else "", max_positions(model.config))


def _length(model: nn.Module, prompt: int, new_tokens: int | None, total_tokens: int | None) -> int:
    """Return the number of tokens of the finished text; prompt: the number of tokens of its prompt."""
    if (new_tokens is None) == (total_tokens is None):
        raise ValueError("Give either new_tokens or total_tokens.")
    wanted = prompt + new_tokens if new_tokens is not None else max(prompt, total_tokens or 0)
    return min(wanted, max_positions(model.config) or wanted)


def _before(ids: list[int], ends: Collection[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
