"""Group rows of tokens into batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from nse_plugin.hparams.model import text_config
from nse_plugin.models.positions import max_positions
from nse_plugin.models.transformers_private import attention_of, rope_settings

_MADE_FOR_THE_LONGEST = ("dynamic", "longrope")


def batches_by_length(lengths: Sequence[int], tokens_per_batch: float, padded: bool = True) -> list[list[int]]:
    """Group rows of similar length so that rows x longest stays within `tokens_per_batch` (at least one row each).

    padded: whether rows of different lengths may be in one batch.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        fits = batches and (len(batches[-1]) + 1) * lengths[i] <= tokens_per_batch
        if fits and (padded or lengths[batches[-1][0]] == lengths[i]):
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def padding_is_safe(model: nn.Module, longest: int) -> bool:
    """Return whether padding leaves the outputs of the other tokens unchanged, in rows of up to `longest` tokens.

    It does not in float64 with eager attention: transformers masks with float64's lowest number and computes the
    softmax in float32, so a padded position that attends to nothing becomes NaN, which spreads to every token of its
    row (0 * NaN). Nor does it if the rotary frequencies of all rows are computed for the longest one ("longrope",
    "dynamic").
    """
    text = text_config(model.config)
    eager = "eager" in (attention_of(model.config), attention_of(text))
    if eager and next(model.parameters()).dtype == torch.float64:
        return False
    ropes = rope_settings(text)
    limits = [rope.get("original_max_position_embeddings") or _trained_length(text) for rope in ropes]
    kinds = [rope.get("rope_type", rope.get("type")) for rope in ropes]
    return all(longest <= limit for kind, limit in zip(kinds, limits, strict=True) if kind in _MADE_FOR_THE_LONGEST)


def _trained_length(config: object) -> float:
    positions = getattr(config, "original_max_position_embeddings", None) or max_positions(config)
    return positions or math.inf
