"""Context managers that stop forward passes early, or replace what a module does when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class StopForward(Exception):
    """Raised by a hook once it has seen everything it needs; `hooked` catches it."""


@contextmanager
def hooked(*handles: RemovableHandle) -> Iterator[None]:
    """Run the block with the hooks of these handles, then remove them. A `StopForward` raised by one of them ends the
    block without an error."""
    try:
        yield
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Run the block with `forward` called in place of the module's own; the module's hooks still run."""
    own = module.__dict__.get("forward")  # set on the instance, e.g. by accelerate's hooks
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
