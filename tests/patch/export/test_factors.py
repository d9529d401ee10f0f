"""The changes of a patch as products of two thin matrices."""

from __future__ import annotations

import logging

import pytest
import torch

from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.export.factors import factors_of, warn_if_truncated


def test_factors_are_the_change_at_its_own_rank(patch):
    """Four facts: four directions a pass at most, in float32 with the rounding of the weights about them."""
    factors = factors_of(patch)
    largest = max(one.rank for one in factors.values())
    for layer, one in factors.items():
        exact = patch.change(layer)
        assert one.rank <= 12 < min(exact.shape)
        assert float((one.b.double() @ one.a.double() - exact).norm() / exact.norm()) < 1e-5
        assert one.a.shape[0] == one.b.shape[1] == largest


def test_fewer_directions_are_the_longest(patch):
    for layer, one in factors_of(patch, 2).items():
        sizes = torch.linalg.svdvals(patch.change(layer))
        error = (one.b.double() @ one.a.double() - patch.change(layer)).norm()
        assert float(error) == pytest.approx(float(sizes[2:].norm()), rel=1e-4)
    with pytest.raises(PatchError, match="rank = 0 cannot be used"):
        factors_of(patch, 0)


def test_the_share_that_a_lower_rank_keeps(patch, caplog):
    factors = factors_of(patch, 1)
    for layer, one in factors.items():
        sizes = torch.linalg.svdvals(patch.change(layer))[: one.whole_rank].square()
        assert one.kept == pytest.approx(float(sizes[0] / sizes.sum()))
        assert 0 < one.kept < 1 < one.whole_rank
    warn_if_truncated(factors)
    layer, least = min(factors.items(), key=lambda item: item[1].kept)
    assert f"keeps {100 * least.kept:.1f}% of the squared norm of the change in layer {layer}" in caplog.text
    assert "--rank 1 --model MODEL" in caplog.text
    caplog.clear()
    for rank in (None, 100):
        warn_if_truncated(factors_of(patch, rank))
    assert not caplog.text


def test_a_rank_that_pays_no_longer_is_said(patch, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING):
        factors_of(patch)
    assert not caplog.text
    for one in patch.columns.values():
        one.new.add_(torch.randn(one.new.shape))  # a change of full rank
    factors_of(patch)
    assert "more numbers than the matrices themselves" in caplog.text
    assert "vLLM" not in caplog.text
    monkeypatch.setattr("nse_plugin.patch.export.factors.VLLM_RANKS", (1, 8))
    factors_of(patch)
    assert "vLLM takes no adapter above rank 8" in caplog.text
