"""Which rows of tokens are run together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def batches_by_length(lengths: Sequence[int], tokens_per_batch: float, padded: bool = True) -> list[list[int]]:
    """Group rows of like length so that rows x longest stays within `tokens_per_batch` (at least one row each).

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


def padding_is_safe(model: Any) -> bool:
    """Whether padding leaves the other tokens alone. Not in float64 with eager attention: transformers masks with
    float64's lowest number and takes the softmax in float32, so a padded place that attends to nothing becomes NaN,
    which spreads to every token of its row (0 * NaN)."""
    eager = getattr(model.config, "_attn_implementation", None) == "eager"
    return not (eager and next(model.parameters()).dtype == torch.float64)
