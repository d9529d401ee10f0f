"""Progress of a comparison's methods, as reported by their workers: one bar each on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nse_plugin.support.progress import EVERY, duration
from nse_plugin.support.suggestions import number_of


class Followed(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, name: str, what: Mapping[str, object]) -> None:
        """Show the progress of a method. what: `doing`, and `edits` while the method writes or measures facts. Work
        reported without `edits` is done once, and is not counted in the time that facts take."""


def follow(console: Console, facts: int) -> Followed:
    """Show progress on this console. facts: number of facts that every method writes."""
    return _Bars(console, facts) if console.is_terminal else _Lines(facts)


class _Bars:
    """One bar per method, with its current activity and estimated remaining time."""

    def __init__(self, console: Console, facts: int) -> None:
        columns = (
            TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[doing]}"),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console, speed_estimate_period=86_400)  # rounds may take hours
        self._facts = facts
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, name: str, what: Mapping[str, Any]) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=self._facts, doing="")
        self._progress.update(
            self._tasks[name], **{"completed" if key == "edits" else key: value for key, value in what.items()}
        )


class _Lines:
    """A line on standard error whenever a method starts something new, and at intervals while it writes facts."""

    def __init__(self, facts: int) -> None:
        self._facts = facts
        self._doing: dict[str, str] = {}
        self._said: dict[str, float] = {}  # when the last line was printed
        self._first: dict[str, tuple[float, int]] = {}  # when the first edits of this run were reported, and how many
        self._once: dict[str, float] = {}  # when the present work without `edits` began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, name: str, what: Mapping[str, Any]) -> None:
        now, doing, edits = time.monotonic(), what["doing"], what.get("edits")
        same = self._doing.get(name) == doing
        self._doing[name] = doing
        if edits is None:
            self._once.setdefault(name, now)
        else:
            began, first = self._first.get(name, (now, edits))
            # leave out the time of work done once, as if the facts had begun later by that much
            self._first[name] = (min(now, began + now - self._once.pop(name, now)), first)
        if same and now - self._said[name] < EVERY:
            return
        self._said[name] = now
        far = "" if edits is None else f", {edits} of {number_of(self._facts, 'fact')}{self._left(name, now, edits)}"
        print(f"{name}: {doing}{far}", file=sys.stderr, flush=True)

    def _left(self, name: str, now: float, edits: int) -> str:
        began, first = self._first[name]
        if not first < edits < self._facts:
            return ""
        return f", about {duration((now - began) / (edits - first) * (self._facts - edits))} left"
