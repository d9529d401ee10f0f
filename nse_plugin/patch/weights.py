"""The weights of a model as a patch knows them: parameters and buffers by their names, whatever class computes with
them. Needs torch alone."""

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
        """Its data as [d, f], a view."""
        return self.weight.data.T if self.transposed else self.weight.data


def matrices_of(model: nn.Module, columns: Columns) -> dict[int, NamedMatrix]:
    """The parameters that columns belong to. Raises PatchError where the model has none of that name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for one in columns.values():
        if one.name not in parameters:
            raise PatchError(
                f"{type(model).__name__} has no parameter {one.name}: give the model the patch was made for (of a PEFT "
                "model its base, get_base_model())."
            )
    return {layer: NamedMatrix(one.name, parameters[one.name], one.transposed) for layer, one in columns.items()}


def others_hash(model: nn.Module, edited: Iterable[str]) -> str:
    """SHA-256 over names and bits of all that `save_pretrained` writes but the edited parameters, given by their names.
    About a second for 1.5 GB.

    Of equal tensors the last name counts: tied weights are there once in a checkpoint's file and twice in a model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    left_out = {id(parameters[name]) for name in edited}  # models tie parameters, which then have several names
    state = sorted(model.state_dict(keep_vars=True).items())
    return hash_of({name: tensor_hash(tensor) for name, tensor in state if id(tensor) not in left_out})


def hash_of(hashes: Mapping[str, str]) -> str:
    """SHA-256 over tensors' names and hashes, as `others_hash` takes it."""
    named = {content: name for name, content in sorted(hashes.items())}
    text = "".join(f"{name} {content}\n" for content, name in sorted(named.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bits."""
    plain = tensor.detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    hashed.update(plain.flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()
