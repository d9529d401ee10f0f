"""Measuring where the time goes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nse_plugin.support import timing
from nse_plugin.support.timing import timed


def test_blocks_add_up_also_one_that_fails(monkeypatch):
    ticks = iter([1.0, 3.0, 10.0, 10.5, 20.0, 24.0])
    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    seconds: dict[str, float] = {}
    with timed(seconds, "values"):
        pass
    with timed(seconds, "update"):
        pass
    with pytest.raises(KeyError), timed(seconds, "values"):
        raise KeyError
    assert seconds == {"values": 6.0, "update": 0.5}
