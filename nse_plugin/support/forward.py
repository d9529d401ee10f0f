"""Forward passes that end early, and modules that for a while do something else when they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle


class StopForward(Exception):
    """Raised by a hook once everything wanted was seen; `hooked` catches it."""


@contextmanager
def hooked(*handles: RemovableHandle) -> Iterator[None]:
    """Within, the hooks of these handles run; a `StopForward` that one of them raises ends the block quietly."""
    try:
        yield
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within, calling `module` calls `forward`; its hooks stay."""
    own = module.__dict__.get("forward")  # an instance's own forward: accelerate's hooks
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
