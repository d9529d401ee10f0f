"""Which rows of tokens are run together."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_length(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group rows of like length so that rows x longest stays within `tokens_per_batch` (at least one row each)."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= tokens_per_batch:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
