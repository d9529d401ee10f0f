"""The bits of tensors of any kind, and hashes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 26  # bytes hashed at once, so that a matrix on a GPU needs little main memory
_SAMPLE = 1024  # numbers of a weight, evenly spaced, that `quick` reads besides its first row and column


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bits, the same on every device and for every memory layout.

    A tensor subclass, such as those of quantisation libraries, is hashed as the plain tensors inside it.
    """
    hashed = hashlib.sha256()
    for plain in plain_tensors(tensor.detach()):
        hashed.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
        if plain.is_meta:
            continue
        flat = _in_bytes(plain).contiguous().reshape(-1)
        step = max(1, _CHUNK // flat.element_size())
        for first in range(0, len(flat), step):
            hashed.update(bits_of(flat[first : first + step]))
    return hashed.hexdigest()


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensor (of any shape), or the parts of a tensor subclass, a sparse or a quantised tensor."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from plain_tensors(getattr(tensor, name))
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
    """Return whether a compressed sparse tensor is stored with this part."""
    try:
        getattr(tensor, part)()
    except RuntimeError:
        return False
    return True


def bits_of(flat: Tensor) -> memoryview:
    """Return the bits of a tensor [n]."""
    view: memoryview = flat.cpu().contiguous().view(torch.uint8).numpy().data
    return view


def _in_bytes(tensor: Tensor) -> Tensor:
    """View a tensor with one byte per number as uint8: for some of these dtypes torch has no operations."""
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def glance(tensor: Tensor) -> Tensor:
    """Return a sample [n] of a tensor of any shape: its first row and column, and evenly spaced numbers."""
    if tensor.is_meta or not tensor.numel():
        return torch.empty(0)
    tensor = _in_bytes(tensor)
    if tensor.dim() < 2:
        return tensor.reshape(-1)[:: max(1, tensor.numel() // _SAMPLE)]
    sample = tensor.flatten(1)[:: max(1, len(tensor) // 32)]
    sample = sample[:, :: max(1, sample.shape[1] // 32)]
    return torch.cat([tensor[:1].flatten(), tensor[..., :1].flatten(), sample.flatten()])
