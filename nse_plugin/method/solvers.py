"""How the value step walks: the published way, or one that spends a quarter of it.

`exact` is Adam, in all contexts, as the paper and MEMIT have it. `fast` is an approximation of the same minimum, off
unless it is asked for (its price in scores stands in benchmarks/README.md): the loss in the bare prompt and `CONTEXTS`
generated ones, samples of one mean; and `UPDATES` steps along the gradient's direction with momentum, whose lengths are
shares of norm(h) that fall evenly from `LONGEST` to `SHORTEST`. Adam spends its first steps on learning that length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.prompts import FactPrompts

CONTEXTS = 1
UPDATES = 6
LONGEST, SHORTEST = 0.25, 0.05
MOMENTUM = 0.5


class Walk(Protocol):
    """n facts on their way. delta: [n, d], 0 at first. updates: how many steps there are."""

    delta: Tensor
    updates: int

    def step(self, facts: Sequence[int], gradient: Tensor) -> None:
        """Move these facts (indices), and no others. gradient: of their losses, a row for each."""


def contexts_of(prompts: Sequence[FactPrompts], hparams: NSEHyperParams) -> Sequence[FactPrompts]:
    """The facts in the contexts that the solver looks at."""
    if hparams.solver == "exact":
        return prompts
    return [replace(fact, rewrites=fact.rewrites[: 1 + CONTEXTS]) for fact in prompts]


def walk_from(h: Tensor, hparams: NSEHyperParams) -> Walk:
    """The solver's walk. h: [n, d], where the facts are."""
    return AdamWalk(h, hparams) if hparams.solver == "exact" else DirectWalk(h, hparams)


class AdamWalk:
    def __init__(self, h: Tensor, hparams: NSEHyperParams) -> None:
        self.delta = torch.zeros_like(h)
        # the authors evaluate the loss v_num_grad_steps times and step after all but the last
        self.updates = hparams.v_num_grad_steps - 1
        self._adam = torch.optim.Adam([self.delta], lr=hparams.v_lr)

    def step(self, facts: Sequence[int], gradient: Tensor) -> None:
        before = self.delta.clone()
        self.delta.grad = torch.zeros_like(self.delta)
        self.delta.grad[facts] = gradient
        self._adam.step()
        moved = self.delta[facts]
        self.delta.copy_(before)  # Adam's momentum would carry the others on
        self.delta[facts] = moved


class DirectWalk:
    def __init__(self, h: Tensor, hparams: NSEHyperParams) -> None:
        self.delta = torch.zeros_like(h)
        self.updates = min(UPDATES, hparams.v_num_grad_steps - 1)
        self._lengths = torch.linspace(LONGEST, SHORTEST, self.updates, dtype=torch.float64).tolist()
        self._norm = h.norm(dim=1, keepdim=True)
        self._momentum = torch.zeros_like(h)

    def step(self, facts: Sequence[int], gradient: Tensor) -> None:
        direction = MOMENTUM * self._momentum[facts] + _unit(gradient)
        self._momentum[facts] = direction
        self.delta[facts] -= self._lengths.pop(0) * self._norm[facts] * _unit(direction)


def _unit(rows: Tensor) -> Tensor:
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return unit
