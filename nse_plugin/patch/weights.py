"""The weights of a model as a patch identifies them: parameters and buffers by name, independent of the modules'
classes. Imports only torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nse_plugin.patch.columns import Columns, PatchError


@dataclass(frozen=True)
class NamedMatrix:
    """A parameter of a model that a patch changes; an `EditedMatrix`."""

    name: str
    weight: Tensor
    transposed: bool

    @property
    def matrix(self) -> Tensor:
        """The parameter's data as [d, f], a view."""
        return self.weight.data.T if self.transposed else self.weight.data


def matrices_of(model: nn.Module, columns: Columns) -> dict[int, NamedMatrix]:
    """Return the parameters that the columns belong to, by layer. Raises PatchError if the model lacks one of them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for one in columns.values():
        if one.name not in parameters:
            raise PatchError(
                f"{type(model).__name__} has no parameter {one.name}: give the model the patch was made for (of a PEFT "
                "model its base, get_base_model())."
            )
    return {layer: NamedMatrix(one.name, parameters[one.name], one.transposed) for layer, one in columns.items()}


def others_hash(model: nn.Module, edited: Iterable[str]) -> str:
    """Return the SHA-256 over names and bits of the model's state dict without the edited parameters.

    edited: the names of the edited parameters. Takes about a second for 1.5 GB. Equal tensors are hashed once, under
    the last of their names: tied weights are stored once in a checkpoint and have two names in a model.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    left_out = {id(parameters[name]) for name in edited}  # by id: tied parameters have several names
    state = sorted(model.state_dict(keep_vars=True).items())
    return hash_of({name: tensor_hash(tensor) for name, tensor in state if id(tensor) not in left_out})


def hash_of(hashes: Mapping[str, str]) -> str:
    """Return the SHA-256 over tensors' names and hashes, {name: hash}, as used by `others_hash`."""
    named = {content: name for name, content in sorted(hashes.items())}
    text = "".join(f"{name} {content}\n" for content, name in sorted(named.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and bits."""
    plain = tensor.detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    hashed.update(plain.flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
