"""What can change a model's outputs unseen: hooks and replaced methods."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

import transformers
from torch import nn

_ONLY_OBSERVE = ("transformers.", "accelerate.")  # hooks of theirs read outputs or move tensors between devices


def foreign_hooks(hooks: Iterable[object]) -> bool:
    """Whether any of the hooks is not one of those libraries' that only observe."""
    return any(not origin_of(hook).startswith(_ONLY_OBSERVE) for hook in hooks)


def accelerate_hooks(module: nn.Module) -> list[Any]:
    """Hooks that accelerate calls, in a forward method that it puts in the module's place."""
    hook = vars(module).get("_hf_hook")
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def replaced_method(module: nn.Module) -> str | None:
    """The first method that an instance has in place of its class's, of those that a forward pass may call."""
    own = dict(vars(module))
    if "_hf_hook" in own:  # accelerate keeps the forward that it wraps
        own["forward"] = own.get("_old_forward")
    for name, value in own.items():
        method = getattr(type(module), name, None)
        if not callable(value) or not isinstance(method, types.FunctionType):
            continue
        of_any_model = name != "forward" and hasattr(transformers.PreTrainedModel, name)
        if not of_any_model and getattr(value, "__func__", None) is not method:
            return name
    return None


def origin_of(function: object) -> str:
    """The module that a function, method, partial or callable object was defined in."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__)
