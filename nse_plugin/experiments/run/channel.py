"""How a worker process reports to its parent: JSON objects on its standard output, a line each.

The output is the reports' alone: what the methods print there, the C libraries they use and the processes they start
goes to standard error. The parent takes nothing else for a report, whatever may come, and stops reading when the
worker has ended, even where a process that the worker started lives on and keeps the pipe open.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

_WAIT = 0.5  # seconds between two looks at whether the worker still runs
_DRAIN = 2.0  # seconds in which what it wrote last is read
_LONGEST = 2**20  # bytes of a line


def own_output() -> TextIO:
    """This process's standard output, for reports; from now on everything else that writes there, in Python or not,
    writes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")  # programs started from here do not inherit it
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


def report(stream: TextIO, what: dict[str, object]) -> None:
    """Write one report: `doing`, a text, and `edits`, the facts written so far, except while something is done
    once for a model. Raises BrokenPipeError when the parent is gone."""
    print(json.dumps(what), file=stream, flush=True)


def reports(process: subprocess.Popen[Any]) -> Iterator[dict[str, object]]:
    """What a worker reports on its `stdout`, until it has ended."""
    assert process.stdout is not None
    pipe, rest = process.stdout.fileno(), b""
    give_up = float("inf")
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < give_up:
            ended = process.poll() is not None  # asked first: whatever it wrote is then in the pipe
            if ended and give_up == float("inf"):
                give_up = time.monotonic() + _DRAIN
            if not selector.select(0 if ended else _WAIT):
                if ended:
                    return
                continue
            data = os.read(pipe, 2**16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            rest = rest if len(rest) < _LONGEST else b""
            yield from filter(None, map(_report_in, lines))


def _report_in(line: bytes) -> dict[str, object] | None:
    """The report that a line is; None: it is something else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # also of bytes that are not UTF-8
        return None
    if not isinstance(found, dict) or not isinstance(found.get("doing"), str):
        return None
    edits = found.get("edits", 0)
    return {key: found[key] for key in ("doing", "edits") if key in found} if isinstance(edits, int) else None
