"""Reports of a worker process to its parent: JSON objects on its standard output, one per line.

Standard output is reserved for reports: output of the methods, of C libraries and of child processes goes to standard
error. The parent ignores any line that is not a report, and stops reading when the worker has ended, even if a process
that the worker started is still running and keeps the pipe open.
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

_WAIT = 0.5  # seconds between two checks whether the worker is still running
_DRAIN = 2.0  # seconds after its end in which its last output is read
_LONGEST = 2**20  # bytes; an unfinished line of this length is discarded


def own_output() -> TextIO:
    """Return a stream to this process's standard output, for reports. From then on, everything else that writes to
    standard output, in Python or not, writes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")  # not inherited by child processes
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return own


def report(stream: TextIO, what: dict[str, object]) -> None:
    """Write one report. what: `doing`, a text, and `edits`, the number of facts written so far; `edits` is left out for
    work that is done once per model. Raises BrokenPipeError if the parent has ended."""
    print(json.dumps(what), file=stream, flush=True)


def reports(process: subprocess.Popen[Any]) -> Iterator[dict[str, object]]:
    """Yield the reports that a worker writes to its standard output, until it has ended."""
    assert process.stdout is not None
    pipe, rest = process.stdout.fileno(), b""
    give_up = float("inf")
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < give_up:
            ended = process.poll() is not None  # checked first: after its end, all its output is in the pipe
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
    """Parse a report. Returns None if the line is not a report."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # includes bytes that are not UTF-8
        return None
    if not isinstance(found, dict) or not isinstance(found.get("doing"), str):
        return None
    edits = found.get("edits", 0)
    return {key: found[key] for key in ("doing", "edits") if key in found} if isinstance(edits, int) else None
