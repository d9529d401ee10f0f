"""Text generation, the one entry point for templates, fluency, free answers and the other methods' samplers.

A prompt is read without the end-of-text token that some tokenizers append, or the model would begin another document;
texts never go beyond the model's positions; special tokens are not drawn, so that texts have the length asked for; and
the same seed gives the same text, whatever is in the batch beside it.
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

TOP_K = 5  # of the most likely tokens, as ROME's generation takes


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

    new_tokens: how many tokens to write. total_tokens: instead, how long a text is with its prompt; a prompt that is as
    long already is returned unchanged. Either way a text ends with the model's last position.
    seed, places: every draw depends on the seed, the prompt's place (None: in the list) and the token's number alone.

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
    """The most likely tokens after each row of token ids, without the row: up to one of `ends`, or `new_tokens`."""
    always_first = torch.zeros(len(rows), new_tokens, dtype=torch.float64)
    written = write(model, rows, always_first, never=(), top_k=1, ends=ends)
    answers = [whole[len(row) :] for row, whole in zip(rows, written, strict=True)]
    return [_before(answer, ends) for answer in answers]


def encoded(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, room: int = 0, frame: Frame = PLAIN
) -> list[int]:
    """A prompt as token ids, without an end of text. room: how many tokens are to follow. frame: where it is asked.
    Raises ValueError as `check_prompt` does."""
    ids = without_end(tokenizer, frame.around(prompt))
    check_prompt(model, prompt, ids, room)
    return ids


def check_prompt(model: nn.Module, prompt: str, ids: Sequence[int], room: int = 0) -> None:
    """Raise ValueError when a prompt has no tokens, or leaves no room for `room` more among the model's positions."""
    if not ids:
        raise ValueError(f"prompt {prompt!r:.60} has no tokens: give a text that the tokenizer knows.")
    check_room(prompt, len(ids) + room, f" with room for {room} more" if room else "", max_positions(model.config))


def _length(model: nn.Module, prompt: int, new_tokens: int | None, total_tokens: int | None) -> int:
    """How many tokens the finished text has; prompt: the length of its prompt."""
    if (new_tokens is None) == (total_tokens is None):
        raise ValueError("Give either new_tokens or total_tokens.")
    wanted = prompt + new_tokens if new_tokens is not None else max(prompt, total_tokens or 0)
    return min(wanted, max_positions(model.config) or wanted)


def _before(ids: list[int], ends: Collection[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
