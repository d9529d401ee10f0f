"""Detect hooks and replaced methods, which can change a model's outputs unnoticed."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

import transformers
from torch import nn

_ONLY_OBSERVE = ("transformers.", "accelerate.")  # their hooks only read outputs or move tensors between devices


def foreign_hooks(hooks: Iterable[object]) -> bool:
    """Return whether any of the hooks does not come from a library whose hooks only observe."""
    return any(not origin_of(hook).startswith(_ONLY_OBSERVE) for hook in hooks)


def accelerate_hooks(module: nn.Module) -> list[Any]:
    """Return the hooks that accelerate calls from the forward method it installs on a module."""
    hook = vars(module).get("_hf_hook")
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def replaced_method(module: nn.Module) -> str | None:
    """Return the first method replaced on the module instance that a forward pass may call; None if there is none."""
    own = dict(vars(module))
    if "_hf_hook" in own:  # accelerate keeps the forward that it wraps in `_old_forward`
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
    """Return the name of the module in which a function, method, partial or callable object was defined."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__)
