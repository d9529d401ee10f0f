"""How much two results of one model may differ if they were computed in different ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_COARSEST = 1 / 16  # upper limit: a larger relative error is never taken for rounding
_FINEST = 1e-4  # lower limit: a smaller one always is taken for rounding
_MATMUL = {"highest": 2.0**-23, "high": 2.0**-10, "medium": 2.0**-8}  # of float32 products, by torch's setting


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference divided by the norm of `expected`, in float64; both have the same shape."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def rounding_allowed(model: nn.Module) -> float:
    """Return the relative error that rounding may cause in the coarsest dtype that a model computes in."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    kinds = {parameter.device.type for parameter in model.parameters()}
    dtypes |= {torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)}
    steps = [torch.finfo(dtype).eps for dtype in dtypes if dtype.itemsize > 1]
    return min(_COARSEST, max(_FINEST, 16 * max(_MATMUL[torch.get_float32_matmul_precision()], *steps, 0.0)))
