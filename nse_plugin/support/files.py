"""The plugin's cache folder, and functions that write files completely or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_home() -> Path:
    """Return `$NSE_HOME`, or `~/.cache/nse-plugin`. Does not create the folder."""
    return Path(os.environ.get("NSE_HOME") or Path.home() / ".cache" / "nse-plugin").expanduser()


def cache_folder(name: str) -> Path | None:
    """Return a folder of `cache_home` for what can be computed again; None if this user has no home directory."""
    try:
        return cache_home() / name
    except RuntimeError:
        return None


def check_home() -> None:
    """Raise ValueError if `cache_home` cannot be a folder; for callers that cannot work without it."""
    if file := file_in_the_way(cache_home()):
        raise ValueError(f"NSE_HOME = {str(cache_home())!r} cannot be used: {file} is a file; set it to a folder.")


def file_in_the_way(folder: Path) -> Path | None:
    """Return the file that has the name of a folder or of one of its parents; None if there is none."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return None if nearest.is_dir() else nearest


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Run the block with a temporary path beside `path` to write to.

    If the block ends without an error, the file is synced to the disk and renamed to `path`. So `path` is complete or
    absent, even after a power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")  # tempfile's files are private
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Like `written_whole`, for a folder of files; an existing folder is replaced."""
    temporary = path.with_name(f".{uuid.uuid4().hex}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in (*temporary.iterdir(), temporary):
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)
