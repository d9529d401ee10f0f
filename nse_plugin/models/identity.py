"""Which model is this, and does it still compute what it did? The one place that answers.

Everything kept for later (values and second moments on disk, keys and values of the context templates in memory, the
rounds an edited model has been through) asks here whether it belongs to the model at hand.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_NOT_COMPUTED_WITH = (
    "_name_or_path", "architectures", "dtype", "output_attentions", "output_hidden_states", "return_dict",
    "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
_ADAPTER_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")  # of PEFT's layers
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
_ONLY_OBSERVE = ("transformers.", "accelerate.")  # hooks of theirs read outputs or move tensors between devices
_CHUNK = 1 << 26  # bytes hashed at a time, so that a matrix on a GPU needs little main memory
_SAMPLE = 1024  # numbers of a weight, evenly spaced, that `quick` reads besides its first row and column


class ModelIdentity:
    """The identity of a loaded model: what its outputs depend on.

    That is: its class and those of its modules, its configuration, all parameters and buffers (of any shape and dtype),
    which adapters are active, merged or disabled and with what scaling, and whether autocast is on.

    The object reads the model whenever it is asked, so it always speaks of the model as it is now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def full(self, dtype: torch.dtype | None = None) -> str:
        """SHA-256 over all of it, exact to the bit and the same on every device; about a second for 1.5 GB.

        dtype: take the floating-point parameters as if they had been cast to this; None: as they are.
        """
        hashed = hashlib.sha256(self._structure().encode())
        for name, parameter in self._model.named_parameters():
            cast = parameter.to(dtype) if dtype is not None and parameter.is_floating_point() else parameter
            hashed.update(f"{name} {fingerprint(cast)}\n".encode())
        for name, buffer in self._model.named_buffers():
            hashed.update(f"{name} {fingerprint(buffer)}\n".encode())
        return hashed.hexdigest()

    def quick(self) -> str:
        """A hash that is hundreds of times cheaper than `full` and that nearly every change alters.

        Of each weight it reads torch's count of in-place changes, the first row and column, and a sample. A change
        written through `.data` to other places alone goes unseen. Good within one process only.
        """
        hashed = hashlib.sha256(self._structure().encode())
        for weight in (*self._model.parameters(), *self._model.buffers()):
            for plain in _plain_tensors(weight.detach()):
                version = -1 if plain.is_inference() else plain._version
                hashed.update(f"{plain.dtype} {tuple(plain.shape)} {version}".encode())
                hashed.update(_bytes(_glance(plain)))
        return hashed.hexdigest()

    @property
    def unseen(self) -> str | None:
        """What may change this model's outputs without changing `full` or `quick`; None: nothing known.

        Hooks and replaced forward methods can do anything (GRACE's codebook is a hook), so nothing that was computed
        before may be taken for what the model would compute now.
        """
        if any(_foreign_hooks(getattr(torch_module, name, {})) for name in _GLOBAL_HOOKS):
            return "global module hooks"
        for name, module in self._model.named_modules():
            where = name or type(module).__name__
            if any(_foreign_hooks(getattr(module, hooks, {})) for hooks in _HOOKS):
                return f"hooks on {where}"
            if _has_own_forward(module):
                return f"a replaced forward method of {where}"
        return None

    def _structure(self) -> str:
        """Everything but tensors."""
        modules = [
            (name, _described(type(module)), _adapter_state(module)) for name, module in self._model.named_modules()
        ]
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
        flat = plain.contiguous().reshape(-1)
        step = max(1, _CHUNK // flat.element_size())
        for first in range(0, len(flat), step):
            hashed.update(_bytes(flat[first : first + step]))
    return hashed.hexdigest()


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor itself, or those that a tensor subclass is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain_tensors(getattr(tensor, name))


def _bytes(flat: Tensor) -> memoryview:
    """The bits of a one-dimensional tensor."""
    view: memoryview = flat.cpu().contiguous().view(torch.uint8).numpy().data
    return view


def _glance(tensor: Tensor) -> Tensor:
    """Some of a tensor's numbers, one-dimensional."""
    if tensor.is_meta or not tensor.numel():
        return torch.empty(0)
    if tensor.dim() < 2:
        return tensor.reshape(-1)[:: max(1, tensor.numel() // _SAMPLE)]
    sample = tensor.flatten(1)[:: max(1, len(tensor) // 32)]
    sample = sample[:, :: max(1, sample.shape[1] // 32)]
    return torch.cat([tensor[:1].flatten(), tensor[..., :1].flatten(), sample.flatten()])


def _described(kind: type) -> str:
    """A class and the forward it has, which may have been replaced for the whole class."""
    forward: Any = getattr(kind, "forward", None)
    return f"{kind.__module__}.{kind.__qualname__} {_origin(forward)}.{getattr(forward, '__qualname__', '')}"


def _adapter_state(module: nn.Module) -> dict[str, Any] | None:
    """What a PEFT layer says of its adapters; None for any other module."""
    if not isinstance(getattr(module, "merged_adapters", None), list):
        return None
    return {name: getattr(module, name, None) for name in _ADAPTER_STATE}


def _configuration(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return {}
    fields = {name: value for name, value in config.to_dict().items() if name not in _NOT_COMPUTED_WITH}
    return {**fields, "attention": getattr(config, "_attn_implementation", None)}


def _autocast(model: nn.Module) -> list[str]:
    """The dtype that autocast would compute in, for every kind of device the model is on; none where it is off."""
    kinds = sorted({parameter.device.type for parameter in model.parameters()} - {"meta"})
    return [f"{kind} {torch.get_autocast_dtype(kind)}" for kind in kinds if torch.is_autocast_enabled(kind)]


def _foreign_hooks(hooks: dict[int, Callable[..., Any]]) -> bool:
    return any(not _origin(hook).startswith(_ONLY_OBSERVE) for hook in hooks.values())


def _has_own_forward(module: nn.Module) -> bool:
    """Whether an instance's forward is not its class's. accelerate keeps the one it wraps."""
    forward = module.__dict__.get("forward")
    if "_hf_hook" in module.__dict__:
        forward = module.__dict__.get("_old_forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def _origin(function: Any) -> str:
    """The module that a function, method, partial or callable object was defined in."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or type(function).__module__)
