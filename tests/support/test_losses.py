"""The loss terms and their gradients are those that torch's own functions give."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from nse_plugin.support.losses import nll_and_kl


def composed(logits, tokens, before):
    targets, compared = logits.tensor_split([len(tokens)])
    now = compared.log_softmax(dim=-1)
    return cross_entropy(targets, tokens, reduction="none"), (now.exp() * (now - before)).sum(dim=1)


@pytest.mark.parametrize(("m", "n"), [(5, 3), (1, 1), (0, 2), (4, 0)])
def test_terms_and_gradient(m, n):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(m + n, 11, dtype=torch.float64, generator=generator).mul_(3).requires_grad_()
    tokens = torch.randint(11, (m,), generator=generator)
    before = torch.randn(n, 11, dtype=torch.float64, generator=generator).log_softmax(dim=-1)
    weights = torch.randn(m + n, dtype=torch.float64, generator=generator)

    def gradient(terms):
        return torch.autograd.grad((torch.cat(terms) * weights).sum(), logits)[0]

    expected, found = composed(logits, tokens, before), nll_and_kl(logits, tokens, before)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(found), gradient(expected), rtol=1e-12, atol=1e-12)


def test_one_row_that_is_not_finite_leaves_the_others_alone():
    logits = torch.randn(3, 7, dtype=torch.float64)
    logits[1] = torch.nan
    logits.requires_grad_()
    nll, kl = nll_and_kl(logits, torch.tensor([2, 2]), torch.zeros(1, 7, dtype=torch.float64))
    assert nll.isnan().tolist() == [False, True]
    (gradient,) = torch.autograd.grad(nll[0] + kl.sum(), logits)
    assert gradient[[0, 2]].isfinite().all()
