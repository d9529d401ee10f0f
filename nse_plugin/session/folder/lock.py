"""Lock a session's folder, so that only one process opens it; the error for a second process names the holder."""

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
    """A session's folder cannot be used, or cannot be used with this model; the message gives the remedy."""


class SessionLock:
    """The lock of a folder, held until `release` or the end of the process. Creates the folder if needed.

    Raises SessionError if another process holds the lock or the folder cannot be written.
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
        with contextlib.suppress(OSError):  # the file is only used in error messages
            (folder / HOLDER).write_text(json.dumps(me), encoding="utf-8")

    def release(self) -> None:
        """Release the lock."""
        with contextlib.suppress(OSError):
            (self._folder / HOLDER).unlink()
        self._lock.release()


def now() -> str:
    """Return the current time, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _holder(folder: Path) -> str:
    """Describe the process that holds the lock."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
