"""Sample tokens after rows of tokens, seeded and in batches. `models.writing.generation` generates texts with it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nse_plugin.models.batching import batches_by_length, padding_is_safe
from nse_plugin.models.frozen import frozen
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.inputs import input_device
from nse_plugin.models.positions import max_positions
from nse_plugin.models.prompts import pad_right
from nse_plugin.models.transformers_private import cache_argument, cache_of
from nse_plugin.support.rounding import relative_error, rounding_allowed

Choose = Callable[[Tensor, Tensor], Tensor]  # logits [B, V], may be modified, and draws [B] -> one token per row [B]


def uniform_draws(seed: int, places: Iterable[int], tokens: int) -> Tensor:
    """Draw numbers in [0, 1), float64 [rows, tokens]; a row depends only on the seed and its place, not on other rows.

    The global generators of torch and numpy are not used.
    """
    return torch.from_numpy(np.stack([np.random.default_rng((seed, place)).random(tokens) for place in places]))


def write(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    draws: Tensor,
    never: Sequence[int],
    top_k: int | None = None,
    ends: Collection[int] = (),
) -> list[list[int]]:
    """Sample as many tokens after each row of token ids as `draws` [rows, tokens] has columns, at temperature 1; fewer
    if the model has no more positions.

    Each token is the `draw` quantile of the distribution over the `top_k` most likely tokens, the most likely first
    (None: over all tokens). never: tokens that are not sampled, such as the end of text. ends: tokens at which a row is
    complete; generation stops once every row has one. Batching changes nothing but rounding.

    If a model's cached passes give other logits than its own pass over the whole text (positions that it counts by
    itself, state that a cache does not hold), it is run without a cache, row by row. A model with hooks is not checked,
    because hooks may distinguish the passes.

    Returns the rows, continued.
    """
    continued: dict[int, list[int]] = {}
    choose = functools.partial(_drawn, never=never, top_k=top_k)
    with frozen(model), torch.inference_mode():
        trusted = ModelIdentity(model).unseen is not None
        longest = max((len(row) for row in rows), default=0) + draws.shape[1]
        positions = max_positions(model.config) or longest
        padded = longest <= positions and padding_is_safe(model, longest)
        for chosen in batches_by_length([len(row) for row in rows], math.inf, padded):
            own = [rows[i] for i in chosen]
            own_draws = draws[chosen, : max(0, positions - max(map(len, own)))]
            new = _with_cache(model, own, own_draws, choose, ends, trusted)
            if new is None:
                new = [_without_cache(model, row, draw, choose, ends) for row, draw in zip(own, own_draws, strict=True)]
            continued |= {i: [*row, *more] for i, row, more in zip(chosen, own, new, strict=True)}
    return [continued[i] for i in range(len(rows))]


def _with_cache(
    model: nn.Module, rows: Sequence[Sequence[int]], draws: Tensor, choose: Choose, ends: Collection[int], trusted: bool
) -> list[list[int]] | None:
    """Return the new tokens of rows that are run together; None if the model cannot continue from its cache."""
    device = input_device(model)
    ids, mask = _pad_left(rows, device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache_name, cache, logits = cache_argument(model), None, torch.empty(0)
    written: list[Tensor] = []
    ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
    for draw in draws.to(device).T:
        if written and cache is None:
            return None
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{cache_name: cache},
        )
        cache, logits = cache_of(out), out.logits[:, -1].float()
        ids = choose(logits.clone(), draw)[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
        written.append(ids)
        ended |= torch.isin(ids[:, 0], torch.tensor([*ends], dtype=ids.dtype, device=device))
        if ended.all():
            break
    new: list[list[int]] = torch.cat(written, dim=1).tolist() if written else [[] for _ in rows]
    shortest = min(range(len(rows)), key=lambda i: len(rows[i]))  # the row with the most padding
    read = [*rows[shortest], *new[shortest][:-1]]
    if written and not trusted and not _are_its_own(model, read, logits[shortest]):
        return None
    return new


def _without_cache(
    model: nn.Module, row: Sequence[int], draws: Tensor, choose: Choose, ends: Collection[int]
) -> list[int]:
    """Return the new tokens of one row, each from a pass over the whole text."""
    text = list(row)
    for draw in draws:
        logits = model(input_ids=_one_row(model, text)).logits[:, -1].float().clone()
        text.append(int(choose(logits, draw[None].to(logits.device))))
        if text[-1] in ends:
            break
    return text[len(row) :]


def _are_its_own(model: nn.Module, text: Sequence[int], logits: Tensor) -> bool:
    """Return whether logits [V] match the model's prediction after a text when it reads all of the text."""
    own = model(input_ids=_one_row(model, text)).logits[0, -1].float()
    return not own.isfinite().all() or relative_error(logits, own) <= rounding_allowed(model)


def _one_row(model: nn.Module, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=input_device(model))


def _drawn(logits: Tensor, draw: Tensor, never: Sequence[int], top_k: int | None) -> Tensor:
    """Choose one token per row, [B]. logits: [B, V], modified in place. draw: float64 [B]."""
    logits[:, [token for token in never if token < logits.shape[1]]] = -torch.inf  # a pad token may be beyond V
    if top_k is None:
        tokens = None
    else:
        logits, tokens = logits.topk(top_k, dim=-1)
    passed = logits.double().softmax(dim=-1).cumsum(dim=-1)
    # the sum may round to just below 1
    choice = torch.searchsorted(passed, draw[:, None].contiguous(), right=True).clamp(max=passed.shape[1] - 1)
    return choice[:, 0] if tokens is None else tokens.gather(1, choice)[:, 0]


def _pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask [B, longest], padded on the left, so that every row's next token is at the same position."""
    ids, mask = pad_right([row[::-1] for row in rows], device)
    return ids.flip(1), mask.flip(1)
