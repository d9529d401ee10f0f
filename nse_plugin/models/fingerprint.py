"""A fingerprint of tensors: has anyone changed these weights? Exact, and computed where the weights are."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_ROWS = 1024  # rows hashed at a time, to bound memory


def fingerprint(tensor: Tensor) -> int:
    """A 64-bit hash of a matrix's bits, the same on every device.

    h = sum_ij a_i b_j w_ij mod 2^64 with fixed random odd a, b and w the bits read as integers: wrap-around sums do not
    depend on the order, so nothing but a change of bits changes it (but for one chance in about 2^63).
    """
    matrix = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])
    matrix = matrix.reshape(matrix.shape[0], -1)
    generator = torch.Generator().manual_seed(20410404045)
    rows, columns = (_odd(size, generator).to(tensor.device) for size in matrix.shape)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for first in range(0, len(matrix), _ROWS):
        part = (matrix[first : first + _ROWS].to(torch.int64) * columns).sum(dim=1)
        total += (part * rows[first : first + _ROWS]).sum()
    return int(total)


def _odd(size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-(2**62), 2**62, (size,), generator=generator) * 2 + 1
