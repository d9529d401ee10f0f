"""Peak memory, as reported by the kernel."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from benchmarks import memory
from benchmarks.comparisons.row import Plan

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux' /proc is read")


def test_peak_sees_what_was_freed_again() -> None:
    def work() -> None:
        with mmap.mmap(-1, 50_000_000) as pages:  # not from the heap, where as much may lie free
            for page in range(0, len(pages), mmap.PAGESIZE):
                pages[page] = 1

    before, peak = memory.peak_of(work)
    assert 40 < peak - before < 120
    before, peak = memory.peak_of(lambda: None)
    assert peak - before < 40


def test_rounds_that_are_measured(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(memory, "_in_its_own_process", lambda *round: asked.append(round) or {})
    memory.measure(["stand-in"], Plan())
    assert asked == [("stand-in", 20), ("ours", 5), ("ours", 20), ("ours", 100)]


def test_both_sides_run_their_round(roomy, monkeypatch) -> None:
    before = roomy.layout.output_matrix(1).weight.clone()
    for side in ("ours", "stand-in"):
        memory.run_once(roomy, side, 2)
        assert not torch.equal(roomy.layout.output_matrix(1).weight, before)
        before = roomy.layout.output_matrix(1).weight.clone()


@pytest.mark.parametrize("arguments", [["our", "20"], ["ours"], ["ours", "many"]])
def test_a_misspelt_side_is_said_before_anything_is_loaded(arguments, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["memory", *arguments])
    monkeypatch.setattr(memory, "Setting", None)
    with pytest.raises(SystemExit):
        memory.main()
    assert "error: " in capsys.readouterr().err
