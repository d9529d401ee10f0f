"""How much two results of one model may differ by rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nse_plugin.support.rounding import relative_error, rounding_allowed


def test_the_relative_error_by_hand():
    expected = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert relative_error(expected.half(), expected) == 0.0


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [(torch.float64, 1e-4), (torch.float32, 1e-4), (torch.float16, 16 * 2.0**-10), (torch.bfloat16, 1 / 16)],
)
def test_the_coarsest_dtype_decides(dtype, allowed):
    model = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 2, dtype=dtype))
    assert rounding_allowed(model) == pytest.approx(allowed)


def test_autocast_and_coarser_products_allow_more():
    model = nn.Linear(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert rounding_allowed(model) == 1 / 16
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert rounding_allowed(model) == 16 * 2.0**-10
    finally:
        torch.set_float32_matmul_precision(before)
