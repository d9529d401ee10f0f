"""Forward passes that end early, and modules that for a while do something else when they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class StopForward(Exception):
    """Raised by a hook once everything wanted was seen, and caught around the forward pass."""


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
