"""The identity of a loaded model: which model it is, and whether it still computes the same outputs.

Everything kept for later (values and second moments on disk, keys and values of the context templates in memory, the
rounds written into an edited model) is checked here against the given model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from nse_plugin.models.identity.hooks import accelerate_hooks, foreign_hooks, replaced_method
from nse_plugin.models.identity.modules import (
    adapter_state,
    attributes,
    autocast,
    class_description,
    configuration,
    settings,
)
from nse_plugin.models.identity.tensors import bits_of, fingerprint, glance, plain_tensors

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks",
)  # fmt: skip


class ModelIdentity:
    """The identity of a loaded model: everything its outputs depend on.

    That is: the classes of its modules with their forward methods; the numbers, functions and tensors among its
    modules' attributes; its configuration; all parameters and buffers (of any shape and dtype, under every name of a
    shared one); which adapters are active, merged or disabled and their scaling; and whether autocast is on.

    The object reads the model at every call, so it always describes the model's current state.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def full(self, dtype: torch.dtype | None = None) -> str:
        """SHA-256 over the whole identity, exact to the bit and the same on every device; about a second for 1.5 GB.

        dtype: hash the floating-point parameters as if cast to this dtype; None: as they are.
        """
        hashed = hashlib.sha256(self._structure().encode())
        known: dict[int, str] = {}
        for name, tensor in self._tensors():
            if id(tensor) not in known:
                casts = dtype is not None and isinstance(tensor, nn.Parameter) and tensor.is_floating_point()
                known[id(tensor)] = fingerprint(tensor.to(dtype) if casts else tensor)
            hashed.update(f"{name} {known[id(tensor)]}\n".encode())
        return hashed.hexdigest()

    def quick(self) -> str:
        """A hash that is hundreds of times cheaper than `full` and that nearly every change alters.

        Of each weight it reads torch's count of in-place changes, the first row and column, and a sample. A change
        written through `.data` to other elements only is not detected. Valid within one process only.
        """
        hashed = hashlib.sha256(self._structure().encode())
        for _, tensor in self._tensors():
            for plain in plain_tensors(tensor.detach()):
                version = -1 if plain.is_inference() else plain._version
                hashed.update(f"{plain.dtype} {tuple(plain.shape)} {version}".encode())
                hashed.update(bits_of(glance(plain)))
        return hashed.hexdigest()

    @property
    def unseen(self) -> str | None:
        """What may change this model's outputs without changing `full` or `quick`; None if nothing is known.

        Hooks and replaced methods can do anything (GRACE's codebook is a hook), so earlier results cannot be assumed to
        match the model's current outputs.
        """
        if any(foreign_hooks(getattr(torch_module, name, {}).values()) for name in _GLOBAL_HOOKS):
            return "global module hooks"
        for name, module in self._model.named_modules():
            where = name or type(module).__name__
            hooks = [hook for kind in _HOOKS for hook in getattr(module, kind, {}).values()]
            if foreign_hooks([*hooks, *accelerate_hooks(module)]):
                return f"hooks on {where}"
            replaced = replaced_method(module)
            if replaced is not None:
                return f"a replaced {replaced} method of {where}"
        return None

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield parameters, buffers and tensors in attributes, each under all of its names."""
        yield from self._model.named_parameters(remove_duplicate=False)
        yield from self._model.named_buffers(remove_duplicate=False)
        for name, module in self._model.named_modules():
            for attribute, value in attributes(module):
                if isinstance(value, Tensor):
                    yield f"{name} {attribute}", value

    def _structure(self) -> str:
        """Describe everything but the tensors, as JSON."""
        named = list(self._model.named_modules())
        described = {kind: class_description(kind) for kind in {type(module) for _, module in named}}
        modules = [(name, described[type(module)], settings(module), adapter_state(module)) for name, module in named]
        return json.dumps([modules, configuration(self._model), autocast(self._model)], sort_keys=True, default=str)
