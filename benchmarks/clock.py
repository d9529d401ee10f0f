"""CPU seconds of several implementations of the same computation, run in turns.

They take turns because a machine's speed drifts within minutes. CPU time is measured rather than wall time because
other programs may be running, and with one thread because the time of several threads depends on how busy the other
cores are.
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
    """Return the CPU seconds that `work(*arguments)` takes, summed over all threads of this process."""
    gc.collect()
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


@dataclass
class Times:
    """CPU seconds of one implementation: {stage: [seconds of each turn]}."""

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
    """Return a run that times `work(*arguments)` as the stage `name`."""
    return lambda: {name: cpu_seconds(work, *arguments)}


def in_turns(runs: Mapping[str, Run], repeats: int, budget: float = 90.0) -> dict[str, Times]:
    """Run all implementations one after the other, `repeats` times; no new turn starts after `budget` CPU seconds."""
    times = {name: Times() for name in runs}
    started = time.process_time()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].add(run())
        if time.process_time() - started > budget:
            break
    return times
