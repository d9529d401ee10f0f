"""Where the plugin keeps what is worth keeping between runs, and how it writes it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_home() -> Path:
    """`$NSE_HOME`, or `~/.cache/nse-plugin`. Not created here."""
    return Path(os.environ.get("NSE_HOME") or Path.home() / ".cache" / "nse-plugin").expanduser()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name `path` only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")  # not tempfile's: those are private
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
