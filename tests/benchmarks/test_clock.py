"""Timing several runs in turns."""

from __future__ import annotations

import time

from benchmarks.clock import cpu_seconds, in_turns, stage


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_work_counts_and_waiting_does_not() -> None:
    assert cpu_seconds(busy, 0.05) >= 0.05
    assert cpu_seconds(time.sleep, 0.2) < 0.1


def test_turns_alternate_and_medians_are_taken() -> None:
    order: list[str] = []
    given = iter([3.0, 1.0, 2.0])

    def one() -> dict[str, float]:
        order.append("one")
        return {"step": next(given)}

    times = in_turns({"one": one, "other": stage("step", order.append, "other")}, repeats=3)
    assert order == ["one", "other"] * 3
    assert times["one"].medians == {"step": 2.0}
    assert times["other"].repeats == 3


def test_no_new_turn_once_the_budget_is_spent(monkeypatch) -> None:
    monkeypatch.setattr("gc.collect", lambda: 0)  # it takes longer than these runs
    times = in_turns({"slow": stage("step", busy, 0.02)}, repeats=50, budget=0.05)
    assert 1 < times["slow"].repeats < 10
    assert in_turns({"slow": stage("step", busy, 0.02)}, repeats=3, budget=0.0)["slow"].repeats == 1
