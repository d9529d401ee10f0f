"""How the value step walks: the published way, or one that spends a fifth of it on its steps.

`exact` is Adam in all contexts, as the paper and MEMIT have it. `fast` is an approximation of the same minimum, off
unless it is asked for (its price in scores stands in benchmarks/README.md): the loss in the bare prompt and the first
`CONTEXTS` generated ones, samples of one mean; and `SHARE` of the updates, `LONGER` times as long, by an Adam that
forgets sooner: so few steps are over before the usual one has made up its mind. (Steps along the gradient itself reach
a lower loss still, but their z, large in few coordinates, wreck the model within two hundred facts.)
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
    """The facts in the contexts that the solver looks at."""
    if hparams.solver == "exact":
        return prompts
    return [replace(fact, rewrites=fact.rewrites[: 1 + CONTEXTS]) for fact in prompts]


class Walk:
    """n facts on their way. delta: [n, d], 0 at first. updates: how many steps each may take."""

    def __init__(self, h: Tensor, hparams: NSEHyperParams, are_long: Sequence[bool]) -> None:
        """h: [n, d], where they begin. are_long: which of them may take `LONG` times as many steps."""
        self.delta = torch.zeros_like(h)
        # the authors evaluate the loss v_num_grad_steps times and step after all but the last
        updates, rate = hparams.v_num_grad_steps - 1, hparams.v_lr
        if hparams.solver == "fast":
            updates, rate = math.ceil(SHARE * updates), LONGER * rate
        self.updates = [LONG * updates if is_long else updates for is_long in are_long]
        self._adam = torch.optim.Adam([self.delta], lr=rate, betas=BETAS[hparams.solver])

    def step(self, facts: Sequence[int], gradient: Tensor) -> None:
        """Move these facts (indices), and no others. gradient: of their losses, a row for each."""
        before = self.delta.clone()
        self.delta.grad = torch.zeros_like(self.delta)
        self.delta.grad[facts] = gradient
        self._adam.step()
        moved = self.delta[facts]
        self.delta.copy_(before)  # Adam's momentum would carry the others on
        self.delta[facts] = moved
