"""The two terms of the value step's loss that depend on logits, with a gradient that needs one pass over them.

The gradients are those of `cross_entropy` and of KL(now || before) written with torch operations. Composed by autograd
they would take eight more tensors of the size of the logits, [m, vocabulary].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def nll_and_kl(logits: Tensor, tokens: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return -log P(token) [m] and KL(now || before) [n], differentiable in the logits.

    logits: [m + n, vocabulary], first the rows of the tokens, then those whose distributions are compared. tokens: [m].
    before: [n, vocabulary], log-probabilities.
    """
    nll, kl = _Terms.apply(logits, tokens, before)  # type: ignore[no-untyped-call]
    return nll, kl


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        now = logits.log_softmax(dim=-1)
        targets, compared = now.tensor_split([len(tokens)])
        kl = (compared.exp() * (compared - before)).sum(dim=1)
        ctx.save_for_backward(now, tokens, before, kl)
        return -targets.gather(1, tokens[:, None])[:, 0], kl

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """d nll / d logits = p - onehot(token);   d KL / d logits = p (log p - log q - KL)."""
        now, tokens, before, kl = ctx.saved_tensors
        of_nll, of_kl = gradients
        gradient = now.exp()
        targets, compared = gradient.tensor_split([len(tokens)])
        targets.mul_(of_nll[:, None])
        targets[torch.arange(len(tokens), device=tokens.device), tokens] -= of_nll
        compared.mul_((now[len(tokens) :] - before).sub_(kl[:, None]).mul_(of_kl[:, None]))
        return gradient, None, None
