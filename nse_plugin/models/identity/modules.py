"""What modules compute with besides tensors: their classes, settings and adapters, and the model's configuration."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.identity.hooks import origin_of
from nse_plugin.models.identity.tensors import fingerprint
from nse_plugin.models.transformers_private import attention_of

_NOT_COMPUTED_WITH = (
    "_name_or_path", "architectures", "dtype", "output_attentions", "output_hidden_states", "return_dict",
    "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")  # of PEFT's layers
_LIBRARIES = ("torch.", "transformers.", "accelerate.", "peft.", "contextlib.")  # functions are described by name
# Attributes of modules that do not affect what they compute in evaluation mode.
_NO_SETTING = {*vars(nn.Module()), "gradient_checkpointing", "warnings_issued"}
_DEEPEST = 3  # levels of nested lists, or of functions that enclose functions


def class_description(kind: type) -> list[object]:
    """Describe a class by its name, its forward method, and its methods that are not a library's own: all methods of a
    user's class, and a user's methods that were patched into a library's class."""
    methods: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        for name, value in vars(parent).items():
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and (name == "forward" or not _is_librarys(function)):
                methods[name] = _value(function)
    return [f"{kind.__module__}.{kind.__qualname__}", methods]


def attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield what a module may compute with besides parameters, buffers and submodules: the numbers, functions and
    tensors among its attributes, by name; those in lists and dicts are named by their index or key."""

    def flat(name: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
        if isinstance(value, bool | int | float | complex | Tensor | types.FunctionType | functools.partial):
            yield name, value
        elif depth < _DEEPEST and isinstance(value, list | tuple | dict):
            for place, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from flat(f"{name}.{place}", item, depth + 1)

    private = type(module).__module__.startswith(_LIBRARIES)
    for name, value in vars(module).items():
        if name not in _NO_SETTING and not (private and name.startswith("_")):
            yield from flat(name, value, 0)


def settings(module: nn.Module) -> list[tuple[str, object]]:
    """Return the attributes that are not tensors."""
    return [(name, _value(value)) for name, value in attributes(module) if not isinstance(value, Tensor)]


def _value(value: object, depth: int = 0) -> Any:
    """Describe a number, a function or a tensor, also in lists and dicts; anything else by the module that defines it.

    A library's function is described by its name; a user's function by its code (which another Python version may
    compile differently), its defaults, its enclosed variables, and the numbers among the globals that it uses.
    """
    if depth > _DEEPEST:
        return None
    if isinstance(value, bool | int | float | complex | str):
        return repr(value)
    if isinstance(value, list | tuple):
        return [_value(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {str(name): _value(item, depth + 1) for name, item in value.items()}
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, functools.partial):
        return [_value(part, depth + 1) for part in (value.func, value.args, value.keywords)]
    if not isinstance(value, types.FunctionType):
        return origin_of(value)
    name = f"{value.__module__}.{value.__qualname__}"
    if _is_librarys(value):
        return name
    used = {used: value.__globals__.get(used) for used in value.__code__.co_names}
    numbers = {used: repr(known) for used, known in used.items() if isinstance(known, bool | int | float | complex)}
    enclosed = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    own = [value.__defaults__, value.__kwdefaults__, enclosed]
    return [name, _code(value.__code__), numbers, *(_value(part, depth + 1) for part in own)]


def _is_librarys(function: types.FunctionType) -> bool:
    """Return whether a library defines the function. It looks at the function's globals, because decorators copy the
    name and the module of the function they wrap."""
    return f"{function.__globals__.get('__name__')}.".startswith(_LIBRARIES)


def _code(code: types.CodeType) -> str:
    """Hash what a function does, independent of where it is defined."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constants.append(_code(constant))
        else:
            constants.append(sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant))
    return hashlib.sha256(repr((code.co_code, code.co_names, code.co_varnames, constants)).encode()).hexdigest()


def adapter_state(module: nn.Module) -> dict[str, object] | None:
    """Return the adapter settings of a PEFT layer; None for any other module."""
    if not isinstance(getattr(module, "merged_adapters", None), list):
        return None
    return {name: getattr(module, name, None) for name in _ADAPTER_STATE}


def configuration(model: nn.Module) -> dict[str, object]:
    """Return the fields of the model's configuration that affect what the model computes."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return {}

    def computed_with(fields: dict[str, object]) -> dict[str, object]:
        return {
            name: computed_with(value) if isinstance(value, dict) else value
            for name, value in fields.items()
            if name not in _NOT_COMPUTED_WITH and value is not None
        }

    configs = {name: part for name, part in vars(config).items() if hasattr(part, "_attn_implementation")}
    attention = {name: attention_of(part) for name, part in {"": config, **configs}.items()}
    return {**computed_with(config.to_dict()), "attention": attention}


def autocast(model: nn.Module) -> list[str]:
    """Return the device types that the model is on and autocast is enabled for, each with the autocast dtype."""
    kinds = sorted({parameter.device.type for parameter in model.parameters()} - {"meta"})
    return [f"{kind} {torch.get_autocast_dtype(kind)}" for kind in kinds if torch.is_autocast_enabled(kind)]
