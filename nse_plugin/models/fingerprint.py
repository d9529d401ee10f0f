"""Has anyone changed these weights? A fingerprint, exact and computed where they are; and a quick look."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor, nn

_NOT_COMPUTED_WITH = ("_name_or_path", "transformers_version", "architectures", "use_cache")
_ROWS = 1024  # rows hashed at a time, to bound memory


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


def appearance(model: nn.Module) -> Tensor:
    """A look at all weights that tells at once when they were changed: how often torch saw it happen in place, and the
    first row and the first column of each; one vector, in main memory.

    Hundreds of times quicker than a fingerprint. What writes through `.data` elsewhere than in both goes unseen.
    """
    parts = []
    for weight in (*model.parameters(), *model.buffers()):
        numbers = weight.detach()
        parts.append(torch.tensor([weight._version], dtype=torch.float64))
        parts += [numbers[:1].flatten(), numbers[..., :1].flatten()] if numbers.dim() else [numbers[None]]
    return torch.cat([part.to("cpu", torch.float64) for part in parts])
