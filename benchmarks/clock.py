"""CPU seconds of several ways to the same result, taken in turns.

Turns, because a machine's speed drifts: what runs a minute later runs on another machine. CPU and not wall time,
because others may be using it. One thread, because the time of more depends on who else wants the cores.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Seconds = dict[str, float]  # by stage
Run = Callable[[], Seconds]


def cpu_seconds(work: Callable[..., object], *arguments: object) -> float:
    """CPU seconds that `work(*arguments)` takes, all threads of this process together."""
    gc.collect()
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


@dataclass
class Times:
    """What one way took, turn after turn: {stage: [CPU seconds]}."""

    turns: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seconds: Seconds) -> None:
        for stage, taken in seconds.items():
            self.turns.setdefault(stage, []).append(taken)

    @property
    def medians(self) -> Seconds:
        return {stage: statistics.median(taken) for stage, taken in self.turns.items()}

    @property
    def repeats(self) -> int:
        return max((len(taken) for taken in self.turns.values()), default=0)


def stage(name: str, work: Callable[..., object], *arguments: object) -> Run:
    """A run of one stage."""
    return lambda: {name: cpu_seconds(work, *arguments)}


def in_turns(runs: Mapping[str, Run], repeats: int, budget: float = 90.0) -> dict[str, Times]:
    """Run every way once, then every way again, `repeats` times; no new turn once `budget` CPU seconds are spent."""
    times = {name: Times() for name in runs}
    started = time.process_time()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].add(run())
        if time.process_time() - started > budget:
            break
    return times
