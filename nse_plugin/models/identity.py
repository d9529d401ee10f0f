"""Which model is this, and does it still compute what it did? The one place that answers.

Everything kept for later (values and second moments on disk, keys and values of the context templates in memory, the
rounds an edited model has been through) asks here whether it belongs to the model at hand.
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import transformers  # its models, seconds to import, when the first one is asked for
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from nse_plugin.models.transformers_private import attention_of

_NOT_COMPUTED_WITH = (
    "_name_or_path", "architectures", "dtype", "output_attentions", "output_hidden_states", "return_dict",
    "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")  # of PEFT's layers
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks",
)  # fmt: skip
_ONLY_OBSERVE = ("transformers.", "accelerate.")  # hooks of theirs read outputs or move tensors between devices
_LIBRARIES = ("torch.", "transformers.", "accelerate.", "peft.", "contextlib.")  # their functions go by their names
# Attributes of modules that say nothing of what they compute in an evaluation.
_NO_SETTING = {*vars(nn.Module()), "gradient_checkpointing", "warnings_issued"}
_DEEPEST = 3  # of lists in lists, or functions that enclose functions
_CHUNK = 1 << 26  # bytes hashed at a time, so that a matrix on a GPU needs little main memory
_SAMPLE = 1024  # numbers of a weight, evenly spaced, that `quick` reads besides its first row and column


class ModelIdentity:
    """The identity of a loaded model: what its outputs depend on.

    That is: the classes of its modules with their forward methods, the numbers, functions and tensors that its modules
    have as attributes, its configuration, all parameters and buffers (of any shape and dtype, by every name that shares
    one), which adapters are active, merged or disabled and with what scaling, and whether autocast is on.

    The object reads the model whenever it is asked, so it always speaks of the model as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def full(self, dtype: torch.dtype | None = None) -> str:
        """SHA-256 over all of it, exact to the bit and the same on every device; about a second for 1.5 GB.

        dtype: take the floating-point parameters as if they had been cast to this; None: as they are.
        """
        hashed = hashlib.sha256(self._structure().encode())
        known: dict[int, str] = {}
        for name, tensor in self._tensors():
            if id(tensor) not in known:
                casts = dtype is not None and isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
                known[id(tensor)] = fingerprint(tensor.to(dtype) if casts else tensor)
            hashed.update(f"{name} {known[id(tensor)]}\n".encode())
        return hashed.hexdigest()

    def weights(self) -> str:
        """SHA-256 over the names and bits of what `save_pretrained` writes alone: parameters and buffers, whatever
        version of whatever library computes with them."""
        hashed = hashlib.sha256()
        for name, tensor in self._model.state_dict().items():
            hashed.update(f"{name} {fingerprint(tensor)}\n".encode())
        return hashed.hexdigest()

    def quick(self) -> str:
        """A hash that is hundreds of times cheaper than `full` and that nearly every change alters.

        Of each weight it reads torch's count of in-place changes, the first row and column, and a sample. A change
        written through `.data` to other places alone goes unseen. Good within one process only.
        """
        hashed = hashlib.sha256(self._structure().encode())
        for _, tensor in self._tensors():
            for plain in _plain_tensors(tensor.detach()):
                version = -1 if plain.is_inference() else plain._version
                hashed.update(f"{plain.dtype} {tuple(plain.shape)} {version}".encode())
                hashed.update(_bytes(_glance(plain)))
        return hashed.hexdigest()

    @property
    def unseen(self) -> str | None:
        """What may change this model's outputs without changing `full` or `quick`; None: nothing known.

        Hooks and replaced methods can do anything (GRACE's codebook is a hook), so nothing that was computed before
        may be taken for what the model would compute now.
        """
        if any(_foreign_hooks(getattr(torch_module, name, {}).values()) for name in _GLOBAL_HOOKS):
            return "global module hooks"
        for name, module in self._model.named_modules():
            where = name or type(module).__name__
            hooks = [hook for kind in _HOOKS for hook in getattr(module, kind, {}).values()]
            if _foreign_hooks([*hooks, *_accelerate_hooks(module)]):
                return f"hooks on {where}"
            replaced = _replaced_method(module)
            if replaced is not None:
                return f"a replaced {replaced} method of {where}"
        return None

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters, buffers and tensors in attributes, each by all of its names."""
        yield from self._model.named_parameters(remove_duplicate=False)
        yield from self._model.named_buffers(remove_duplicate=False)
        for name, module in self._model.named_modules():
            for attribute, value in _attributes(module):
                if isinstance(value, Tensor):
                    yield f"{name} {attribute}", value

    def _structure(self) -> str:
        """Everything but tensors."""
        named = list(self._model.named_modules())
        described = {kind: _described(kind) for kind in {type(module) for _, module in named}}
        modules = [(name, described[type(module)], _settings(module), _adapter_state(module)) for name, module in named]
        return json.dumps([modules, _configuration(self._model), _autocast(self._model)], sort_keys=True, default=str)


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bits, the same on every device and for every memory layout.

    A tensor subclass, as quantisation libraries use them, counts as the plain tensors inside it.
    """
    hashed = hashlib.sha256()
    for plain in _plain_tensors(tensor.detach()):
        hashed.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        if plain.is_meta:
            continue
        flat = _in_bytes(plain).contiguous().reshape(-1)
        step = max(1, _CHUNK // flat.element_size())
        for first in range(0, len(flat), step):
            hashed.update(_bytes(flat[first : first + step]))
    return hashed.hexdigest()


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor itself, or those that a tensor subclass, a sparse or a quantised tensor is made of."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _plain_tensors(getattr(tensor, name))
    elif tensor.is_quantized:
        per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        scales = (
            (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points())
            if per_channel
            else (torch.tensor(tensor.q_scale()), torch.tensor(tensor.q_zero_point()))
        )
        yield from (tensor.int_repr(), *scales)
    elif tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        yield from (torch.tensor(tensor.shape), tensor.indices(), tensor.values())
    elif tensor.layout is not torch.strided:
        parts = ("crow_indices", "ccol_indices", "row_indices", "col_indices", "values")
        yield torch.tensor(tensor.shape)
        yield from (getattr(tensor, part)() for part in parts if _has_part(tensor, part))
    else:
        yield tensor.resolve_conj().resolve_neg()


def _has_part(tensor: Tensor, part: str) -> bool:
    """Whether a compressed sparse tensor is stored with this part."""
    try:
        getattr(tensor, part)()
    except RuntimeError:
        return False
    return True


def _bytes(flat: Tensor) -> memoryview:
    """The bits of a one-dimensional tensor."""
    view: memoryview = flat.cpu().contiguous().view(torch.uint8).numpy().data
    return view


def _in_bytes(tensor: Tensor) -> Tensor:
    """A tensor of one byte a number as such: of some of these dtypes torch computes nothing."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def _glance(tensor: Tensor) -> Tensor:
    """Some of a tensor's numbers, one-dimensional."""
    if tensor.is_meta or not tensor.numel():
        return torch.empty(0)
    tensor = _in_bytes(tensor)
    if tensor.dim() < 2:
        return tensor.reshape(-1)[:: max(1, tensor.numel() // _SAMPLE)]
    sample = tensor.flatten(1)[:: max(1, len(tensor) // 32)]
    sample = sample[:, :: max(1, sample.shape[1] // 32)]
    return torch.cat([tensor[:1].flatten(), tensor[..., :1].flatten(), sample.flatten()])


def _described(kind: type) -> list[Any]:
    """A class with its forward, and its methods that are no library's own: all of a user's class, and those that were
    put into a library's."""
    methods: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        for name, value in vars(parent).items():
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and (name == "forward" or not _is_librarys(function)):
                methods[name] = _value(function)
    return [f"{kind.__module__}.{kind.__qualname__}", methods]


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module may compute with beside parameters, buffers and submodules: numbers, functions and tensors among
    its attributes, those in lists and dicts by their places."""

    def flat(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        if isinstance(value, bool | int | float | complex | Tensor | types.FunctionType | functools.partial):
            yield name, value
        elif depth < _DEEPEST and isinstance(value, list | tuple | dict):
            for place, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from flat(f"{name}.{place}", item, depth + 1)

    private = type(module).__module__.startswith(_LIBRARIES)
    for name, value in vars(module).items():
        if name not in _NO_SETTING and not (private and name.startswith("_")):
            yield from flat(name, value, 0)


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """The attributes that are no tensors."""
    return [(name, _value(value)) for name, value in _attributes(module) if not isinstance(value, Tensor)]


def _value(value: Any, depth: int = 0) -> Any:
    """What is known of a number, a function or a tensor, also in lists and dicts; of anything else its type.

    A library's function is known by its name; a user's by its code (which another Python may compile in another way),
    its defaults, what it encloses, and the numbers that it uses of its module.
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
        return _origin(value)
    name = f"{value.__module__}.{value.__qualname__}"
    if _is_librarys(value):
        return name
    used = {used: value.__globals__.get(used) for used in value.__code__.co_names}
    numbers = {used: repr(known) for used, known in used.items() if isinstance(known, bool | int | float | complex)}
    enclosed = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    own = [value.__defaults__, value.__kwdefaults__, enclosed]
    return [name, _code(value.__code__), numbers, *(_value(part, depth + 1) for part in own)]


def _is_librarys(function: types.FunctionType) -> bool:
    """Whether a library defines it. Decorators copy the name and the module of what they wrap, so globals are asked."""
    return f"{function.__globals__.get('__name__')}.".startswith(_LIBRARIES)


def _code(code: types.CodeType) -> str:
    """A hash of what a function does, wherever it is written."""
    constants: list[Any] = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constants.append(_code(constant))
        else:
            constants.append(sorted(map(repr, constant)) if isinstance(constant, frozenset) else repr(constant))
    return hashlib.sha256(repr((code.co_code, code.co_names, code.co_varnames, constants)).encode()).hexdigest()


def _adapter_state(module: nn.Module) -> dict[str, Any] | None:
    """What a PEFT layer says of its adapters; None for any other module."""
    if not isinstance(getattr(module, "merged_adapters", None), list):
        return None
    return {name: getattr(module, name, None) for name in _ADAPTER_STATE}


def _configuration(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return {}

    def computed_with(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            name: computed_with(value) if isinstance(value, dict) else value
            for name, value in fields.items()
            if name not in _NOT_COMPUTED_WITH and value is not None
        }

    configs = {name: part for name, part in vars(config).items() if hasattr(part, "_attn_implementation")}
    attention = {name: attention_of(part) for name, part in {"": config, **configs}.items()}
    return {**computed_with(config.to_dict()), "attention": attention}


def _autocast(model: nn.Module) -> list[str]:
    """The dtype that autocast would compute in, for every kind of device the model is on; none where it is off."""
    kinds = sorted({parameter.device.type for parameter in model.parameters()} - {"meta"})
    return [f"{kind} {torch.get_autocast_dtype(kind)}" for kind in kinds if torch.is_autocast_enabled(kind)]


def _foreign_hooks(hooks: Iterable[Any]) -> bool:
    return any(not _origin(hook).startswith(_ONLY_OBSERVE) for hook in hooks)


def _accelerate_hooks(module: nn.Module) -> list[Any]:
    """Hooks that accelerate calls, in a forward method that it puts in the module's place."""
    hook = vars(module).get("_hf_hook")
    return [] if hook is None else [hook, *getattr(hook, "hooks", ())]


def _replaced_method(module: nn.Module) -> str | None:
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


def _origin(function: Any) -> str:
    """The module that a function, method, partial or callable object was defined in."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__)
