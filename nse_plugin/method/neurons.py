"""Neuron selection: which columns of `W_out` a round may change (arXiv 2410.04045, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def select_neurons(keys: Tensor, p: float, preset: str = "paper") -> Tensor:
    """Select the most active neurons, by the score Q = sum_i abs(k_i).

    keys: [n, f]. p: in (0, 1].
    Returns their indices, ascending. preset `paper`: the smallest set whose scores sum to at least p of the total;
    preset `released`: the largest set whose scores sum to at most p of the total, but at least one neuron. p = 1
    selects every neuron in both presets, including neurons with score 0.
    """
    scores = keys.abs().sum(dim=0, dtype=torch.float64)
    if p == 1:
        return torch.arange(len(scores), device=keys.device)
    ordered, order = scores.sort(descending=True, stable=True)
    reached = ordered.cumsum(dim=0)
    limit = p * scores.sum()
    if preset == "released":
        count = max(1, int((reached <= limit).sum()))
    else:
        count = min(len(scores), int((reached < limit).sum()) + 1)
    return order[:count].sort().values
