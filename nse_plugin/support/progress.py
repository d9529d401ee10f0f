"""Progress of long work on standard error: a bar on a terminal, otherwise a line of text from time to time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

QUICK = 2.0  # seconds; no line is printed for work that ends sooner
EVERY = 30.0  # seconds between two lines

Listener = Callable[[str | None], None]
_listener: ContextVar[Listener] = ContextVar("listener", default=lambda what: None)


@contextmanager
def progress_listener(listener: Listener) -> Iterator[None]:
    """Run the block with `listener` called with the description of every `bar` that begins, and with None when it is
    done."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress while the block runs. Yields `advance(count)`. total: None if it is not known in advance."""
    _listener.get()(description)
    with _shown(description, total) as advance:
        yield advance
    _listener.get()(None)


@contextmanager
def _shown(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        with _Lines(description, total) as lines:
            yield lines.advance
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.update(task, advance=count)


def duration(seconds: float) -> str:
    """Format seconds as text, such as "40 s", "3 min" or "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class _Lines:
    """Progress as text: one line after `QUICK` seconds, then one every `EVERY` seconds, and one at the end."""

    def __init__(self, description: str, total: int | None) -> None:
        self._description, self._total = description, total
        self._done = 0
        self._first = 0  # count at the first line; the pace is measured from there
        self._started = time.monotonic()
        self._begun = False
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def advance(self, count: int) -> None:
        self._done += count

    def __enter__(self) -> _Lines:
        self._ticker.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self._ticker.join()
        if self._begun:
            took = duration(time.monotonic() - self._started)
            self._say(f"done in {took}" if kind is None else f"stopped after {took}")

    def _tick(self) -> None:
        if self._over.wait(QUICK):
            return
        self._begun, self._first = True, self._done
        self._say("begun")
        while not self._over.wait(EVERY):
            self._say(self._time_left())

    def _time_left(self) -> str:
        took = time.monotonic() - self._started - QUICK
        pace = (self._done - self._first) / took
        if self._total is None or pace <= 0:
            return f"{duration(took + QUICK)} so far"
        return f"about {duration(max(0, self._total - self._done) / pace)} left"

    def _say(self, how: str) -> None:
        of = "" if self._total is None else f" of {self._total:,}"
        print(f"{self._description}: {self._done:,}{of}, {how}", file=sys.stderr, flush=True)
