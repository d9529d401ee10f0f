"""Freed memory is returned to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest
import torch

from nse_plugin.support.memory import trim_heap

MB = 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_holes_go_back_to_the_system() -> None:
    trim_heap()
    before = resident()
    pieces = [torch.ones(16_000) for _ in range(4_000)]  # 64 kB each, too small to have a mapping of their own
    between = pieces[::50]
    pieces = []
    held = resident() - before
    trim_heap()
    assert held > 100 * MB  # otherwise there is nothing to see
    assert resident() - before < 30 * MB
    assert all(piece.sum() == 16_000 for piece in between)


def test_elsewhere_nothing_happens(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", None)
    trim_heap()
