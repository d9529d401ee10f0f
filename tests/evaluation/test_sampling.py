"""Choosing some of many items."""

from __future__ import annotations

from nse_plugin.evaluation.sampling import evenly_spaced


def test_evenly_spaced() -> None:
    assert evenly_spaced(10, 5) == [0, 2, 4, 6, 8]
    assert evenly_spaced(10, 3) == [0, 3, 6]
    assert evenly_spaced(3, 20) == [0, 1, 2]
    assert evenly_spaced(3, 0) == []
    assert evenly_spaced(3, None) == [0, 1, 2]
