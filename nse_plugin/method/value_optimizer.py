"""The optimiser of the value step: as published, or an approximation at about a fifth of the cost.

`exact` is Adam over all contexts, as in the paper and MEMIT. `fast` approximates the same minimum; it is the default on
SmolLM2-135M only (benchmarks/README.md gives its cost in scores). It evaluates the loss on the bare prompt and the
first `CONTEXTS` generated contexts only, and makes `SHARE` of the updates with `LONGER` times the learning rate, by
Adam with betas (0.6, 0.9): with so few updates the default moment estimates never warm up. (Plain gradient steps reach
a lower loss, but their z are large in few coordinates and ruin the model within two hundred facts.)
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
# Factor on the maximum number of updates for facts that take longer: facts that share a value, and facts in a chat,
# where the assistant would otherwise begin a sentence. The loss may still end them earlier.
LONG = 4


def contexts_of(prompts: Sequence[FactPrompts], hparams: NSEHyperParams) -> Sequence[FactPrompts]:
    """Return the facts with only the contexts that the optimiser evaluates."""
    if hparams.solver == "exact":
        return prompts
    return [replace(fact, rewrites=fact.rewrites[: 1 + CONTEXTS]) for fact in prompts]


class DeltaOptimizer:
    """Optimises delta [n, d] for n facts, starting at 0. updates: the maximum number of steps of each fact."""

    def __init__(self, h: Tensor, hparams: NSEHyperParams, are_long: Sequence[bool]) -> None:
        """h: [n, d], the states that delta is added to. are_long: which facts may take `LONG` times as many steps."""
        self.delta = torch.zeros_like(h)
        # the authors evaluate the loss v_num_grad_steps times and step after all but the last
        updates, rate = hparams.v_num_grad_steps - 1, hparams.known("v_lr")
        if hparams.solver == "fast":
            updates, rate = math.ceil(SHARE * updates), LONGER * rate
        self.updates = [LONG * updates if is_long else updates for is_long in are_long]
        self._adam = torch.optim.Adam([self.delta], lr=rate, betas=BETAS[hparams.solver])

    def step(self, facts: Sequence[int], gradient: Tensor) -> None:
        """Update only these facts (indices). gradient: [m, d], of their losses."""
        before = self.delta.clone()
        self.delta.grad = torch.zeros_like(self.delta)
        self.delta.grad[facts] = gradient
        self._adam.step()
        moved = self.delta[facts]
        self.delta.copy_(before)  # Adam's momentum would also move the other facts
        self.delta[facts] = moved
