"""Restore temporary changes reliably, even if Ctrl-C comes at the worst moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def restoring(restore: Callable[[], None]) -> Iterator[None]:
    """Call `restore` at the end of the block, however it ends; call it again if the block or the first call raised.

    restore: must allow another call after it was interrupted halfway, and after it was completed.
    """
    try:
        try:
            yield
        finally:
            restore()
    except BaseException:
        restore()
        raise
