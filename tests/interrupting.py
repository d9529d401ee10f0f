"""Ctrl-C at every single line of a function: an interrupt may come between any two lines."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any


def interrupted_at_every_line(run: Callable[[], Any], *modules: ModuleType) -> Iterator[str]:
    """Call `run` again and again, with a KeyboardInterrupt at the first line that is run of these modules, at the
    second, and so on until it comes to its end. Yields where, after each."""
    files = {inspect.getsourcefile(module) for module in modules}
    for number in range(1, 10_000):
        where = _interrupted(run, files, number)
        if where is None:
            return
        yield where


def _interrupted(run: Callable[[], Any], files: set[str | None], number: int) -> str | None:
    seen, where = 0, None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen, where
        if frame.f_code.co_filename not in files:
            return None
        if event in ("call", "line"):
            seen += 1
            if seen == number:
                where = f"{event} {frame.f_code.co_filename}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return where
