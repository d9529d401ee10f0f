"""Where the plugin keeps what is worth keeping between runs, and how it writes it."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_home() -> Path:
    """`$NSE_HOME`, or `~/.cache/nse-plugin`. Not created here."""
    return Path(os.environ.get("NSE_HOME") or Path.home() / ".cache" / "nse-plugin").expanduser()


def check_home() -> None:
    """Raise ValueError where `cache_home` cannot be a folder; for callers that cannot work without it."""
    if file := file_in_the_way(cache_home()):
        raise ValueError(f"NSE_HOME = {str(cache_home())!r} cannot be used: {file} is a file; set it to a folder.")


def file_in_the_way(folder: Path) -> Path | None:
    """The file that has the name of a folder, or of a folder above it."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    return None if nearest.is_dir() else nearest


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` only when the block ends well, and what was
    written is on the disk, so that `path` is there whole or not at all even when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")  # not tempfile's: those are private
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """The same for a folder of files; one that is there already is replaced."""
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
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot do it with folders
            raise
    finally:
        os.close(descriptor)
