"""The optimiser of the value step: as published, or an approximation that costs about a fifth.

`exact` is Adam over all contexts, as in the paper and MEMIT. `fast` approximates the same minimum; it is off by default
(benchmarks/README.md has its cost in scores): the loss over the bare prompt and the first `CONTEXTS` generated ones,
and `SHARE` of the updates, each `LONGER` times as large, by Adam with betas (0.6, 0.9): with so few updates the default
moment estimates never warm up. (Plain gradient steps reach a lower loss, but their z are large in few coordinates and
ruin the model within two hundred facts.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.prompts import FactPrompts

CONTEXTS = 1
SHARE = 0.6
LONGER = 2.0
BETAS = {"exact": (0.9, 0.999), "fast": (0.6, 0.9)}
# Times as many updates, where the loss does not end them before, for what takes longer: facts that share a value, and
# facts in a chat, whose assistant would begin a sentence.
LONG = 4


def contexts_of(prompts: Sequence[FactPrompts], hparams: NSEHyperParams) -> Sequence[FactPrompts]:
    """The facts with only the contexts that the optimiser evaluates."""
    if hparams.solver == "exact":
        return prompts
    return [replace(fact, rewrites=fact.rewrites[: 1 + CONTEXTS]) for fact in prompts]


class DeltaOptimizer:
    """Optimises delta [n, d] for n facts, starting at 0. updates: the most steps of each."""

    def __init__(self, h: Tensor, hparams: NSEHyperParams, are_long: Sequence[bool]) -> None:
        """h: [n, d], what delta is added to. are_long: which facts may take `LONG` times as many steps."""
        self.delta = torch.zeros_like(h)
        # the authors evaluate the loss v_num_grad_steps times and step after all but the last
        updates, rate = hparams.v_num_grad_steps - 1, hparams.v_lr
        if hparams.solver == "fast":
            updates, rate = math.ceil(SHARE * updates), LONGER * rate
        self.updates = [LONG * updates if is_long else updates for is_long in are_long]
        self._adam = torch.optim.Adam([self.delta], lr=rate, betas=BETAS[hparams.solver])

    def step(self, facts: Sequence[int], gradient: Tensor) -> None:
        """Update these facts (indices) only. gradient: [m, d], of their losses."""
        before = self.delta.clone()
        self.delta.grad = torch.zeros_like(self.delta)
        self.delta.grad[facts] = gradient
        self._adam.step()
        moved = self.delta[facts]
        self.delta.copy_(before)  # Adam's momentum would carry the others on
        self.delta[facts] = moved
