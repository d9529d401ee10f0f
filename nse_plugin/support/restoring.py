"""Putting back what was changed for a while, also when Ctrl-C comes at the worst moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def restoring(restore: Callable[[], None]) -> Iterator[None]:
    """Call `restore` at the end of the block, however it ends; once more where that, too, is interrupted.

    restore: may be called again after it was stopped halfway, and after it was done.
    """
    try:
        try:
            yield
        finally:
            restore()
    except BaseException:
        restore()
        raise
