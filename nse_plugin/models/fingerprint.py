"""A fingerprint of tensors and models: has anyone changed these weights? Exact, and computed where the weights are."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

_NOT_COMPUTED_WITH = ("_name_or_path", "transformers_version", "architectures", "use_cache")
_ROWS = 1024  # rows hashed at a time, to bound memory
_SAMPLE = 64  # numbers of each parameter that are looked at


def fingerprint(tensor: Tensor) -> int:
    """A 64-bit hash of a tensor's bits, the same on every device.

    h = sum_ij a_i b_j w_ij mod 2^64 with fixed random odd a, b and w the bits read as 16-bit integers: wrap-around sums
    do not depend on the order, so nothing but a change of bits changes it. A change goes unseen with one chance in
    2^48: the highest bit of w has the weight 2^15 (of longer integers more, and two changed signs would cancel).
    """
    matrix = tensor.detach().contiguous().view(torch.int16)
    matrix = matrix.reshape(matrix.shape[0] if matrix.dim() > 1 else 1, -1)
    generator = torch.Generator().manual_seed(20410404045)
    rows, columns = (_odd(size, generator).to(tensor.device) for size in matrix.shape)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for first in range(0, len(matrix), _ROWS):
        part = (matrix[first : first + _ROWS].to(torch.int64) * columns).sum(dim=1)
        total += (part * rows[first : first + _ROWS]).sum()
    return int(total)


def _odd(size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-(2**62), 2**62, (size,), generator=generator) * 2 + 1


def model_fingerprint(model: nn.Module) -> str:
    """A hash of everything a model computes with: its configuration, and all parameters with their names."""
    hashed = hashlib.sha256()
    config = getattr(model, "config", None)
    if config is not None:
        told = {name: value for name, value in config.to_dict().items() if name not in _NOT_COMPUTED_WITH}
        hashed.update(json.dumps(told, sort_keys=True, default=str).encode())
    for name, weight in model.named_parameters():
        hashed.update(f"{name} {tuple(weight.shape)} {weight.dtype} {fingerprint(weight.data)}\n".encode())
    return hashed.hexdigest()


def appearance(model: nn.Module) -> list[Any]:
    """What tells at once that weights changed: where they are, how often torch saw them change in place, and a sample.

    Hundreds of times quicker than a fingerprint, and blind only to who writes to few numbers through `.data`.
    """
    return [(weight.device, weight.dtype, weight._version, _sample(weight)) for weight in model.parameters()]


def _sample(weight: Tensor) -> list[float]:
    """Some of its numbers, evenly spread; none of a weight that is kept elsewhere until it is used."""
    if weight.is_meta:
        return []
    numbers: list[float] = weight.detach().flatten()[:: weight.numel() // _SAMPLE + 1].tolist()
    return numbers
