"""Float32 master copies of the edited matrices of a bfloat16 or float16 model: W_0 plus the sum of all changes.

Most weights change less in a round than the resolution of these dtypes. If changes were added to the model itself, they
would be rounded in every pass of every round. They are added to the master copy instead, and the model gets that copy
rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nse_plugin.models.layout import OutputMatrix
from nse_plugin.patch.columns import difference

COARSE = (torch.bfloat16, torch.float16)  # the dtypes of models that have master copies

Masters = Mapping[int, Tensor]  # by layer, float32, as the modules store the weights; empty for other models
Changes = Mapping[int, tuple[Tensor, Tensor]]  # {layer: (neurons [m], columns [m, d])}


@dataclass(frozen=True)
class _Copy:
    """A master copy as an `EditedMatrix`, so that `difference` can compare it."""

    name: str
    weight: Tensor
    matrix: Tensor


def masters_of(weights: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Create master copies of the weights of coarse dtypes, [d, f] or [f, d] as their modules store them, by layer."""
    return {layer: weight.float() for layer, weight in weights.items() if weight.dtype in COARSE}


def changed_masters(matrices: Mapping[int, OutputMatrix], before: Masters, after: Masters) -> Changes:
    """Return the columns of the master copies that differ between `before` and `after`, with their values after."""
    copies = {
        layer: _Copy(matrices[layer].name, copy, matrices[layer].as_matrix(copy)) for layer, copy in after.items()
    }
    return {layer: (one.neurons, one.new) for layer, one in difference(copies, before).items()}


def apply_changes(matrices: Mapping[int, OutputMatrix], weights: Mapping[int, Tensor], changes: Changes) -> None:
    """Write columns [m, d] of neurons [m] into copies of matrices, in place. Raises IndexError, KeyError or
    RuntimeError if they do not fit."""
    for layer, (neurons, columns) in changes.items():
        matrix = matrices[layer].as_matrix(weights[layer])
        matrix[:, neurons.to(matrix.device)] = columns.T.to(matrix)


def are_of(matrices: Mapping[int, OutputMatrix], masters: Masters) -> bool:
    """Return whether the matrices are equal to these master copies, rounded to the model's dtype."""
    return all(torch.equal(copy.to(matrices[layer].weight), matrices[layer].weight) for layer, copy in masters.items())
