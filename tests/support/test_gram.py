"""k^T k, computed in blocks."""

from __future__ import annotations

import pytest
import torch

from nse_plugin.support.gram import gram


@pytest.mark.parametrize(("n", "f"), [(7, 16), (3, 10), (5, 2), (1, 1), (0, 6)])
def test_it_is_the_product(n, f):
    k = torch.randn(n, f, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    found = gram(k)
    assert torch.allclose(found, k.T @ k, rtol=1e-14, atol=1e-14)
    assert torch.equal(found, found.T)  # to the bit, as no product of its own need be
