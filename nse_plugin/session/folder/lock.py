"""One process at a time in a session's folder; the error for a second one names the holder."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from nse_plugin.support.files import file_in_the_way

LOCK, HOLDER = "lock", "holder.json"


class SessionError(ValueError):
    """A session's folder, or a model, that cannot be used with it; the message gives the remedy."""


class SessionLock:
    """The lock of a folder, from now to `release`, or to the end of the process. The folder is made.

    Raises SessionError when another process has it, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        if file := file_in_the_way(folder.absolute()):
            raise SessionError(f"{folder} cannot be a session's folder: {file} is a file; name a folder.")
        self._folder, self._lock = folder, FileLock(folder / LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SessionError(f"{folder} is open in {_holder(folder)}: close that session first.") from None
        except OSError as error:
            raise SessionError(f"{folder} cannot be written ({error}): make it writable, or copy it.") from error
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        with contextlib.suppress(OSError):  # it helps those who come next, no more
            (folder / HOLDER).write_text(json.dumps(me), encoding="utf-8")

    def release(self) -> None:
        """Let others have the folder."""
        with contextlib.suppress(OSError):
            (self._folder / HOLDER).unlink()
        self._lock.release()


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _holder(folder: Path) -> str:
    """A description of the lock's holder."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
