"""The demo's progress: one line per stage, with its time; all other output goes to a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console


class Stages:
    """Print one line per stage. Use it as a context manager; call it to open a stage:

        with Stages(console, log) as stages, stages("model") as note:
            ...
            note("read from the cache")

    Output printed during a stage, including progress bars, goes to the file `log`. Errors are raised as usual.
    total: seconds since the object was created.
    """

    def __init__(self, console: Console, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._console = console
        self._log = log.open("w", encoding="utf-8")
        self._started = time.monotonic()

    @property
    def total(self) -> float:
        return time.monotonic() - self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._log.close()

    @contextlib.contextmanager
    def __call__(self, name: str, has_bar: bool = False) -> Iterator[Callable[[str], None]]:
        """Context manager of one stage. Yields a function that sets the text at the end of the stage's line.

        has_bar: the stage shows a progress bar itself, so its output is not sent to the file.
        """
        started = time.monotonic()
        outcome = ""
        status = self._console.status(name)

        def note(text: str) -> None:
            nonlocal outcome
            outcome = text
            status.update(f"{name}: {text}")

        with contextlib.ExitStack() as stack:
            if not has_bar:
                stack.enter_context(status)
                stack.enter_context(contextlib.redirect_stdout(self._log))
                stack.enter_context(contextlib.redirect_stderr(self._log))
            yield note
        line = f"  {name:<24} {time.monotonic() - started:6.1f} s  {outcome}"
        self._console.print(line, highlight=False, soft_wrap=True)
