"""Master copies of a bfloat16 or float16 model's edited matrices: W_0 and the sum of all changes, in float32.

A round's change of most weights is smaller than the steps of these dtypes. Added to the model itself it is rounded
again in every pass of every round; here it is added to the master copy, and the model has that copy rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nse_plugin.models.layout import OutputMatrix
from nse_plugin.patch.columns import difference

COARSE = (torch.bfloat16, torch.float16)  # the dtypes of models that have master copies

Masters = Mapping[int, Tensor]  # float32, as the modules store them, by layer; none for other models
Changes = Mapping[int, tuple[Tensor, Tensor]]  # {layer: (neurons [m], columns [m, d])}


@dataclass(frozen=True)
class _Copy:
    """A master copy in the place of its matrix."""

    name: str
    weight: Tensor
    matrix: Tensor


def masters_of(weights: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """New master copies of weights, [d, f] or [f, d] as their modules store them, by layer."""
    return {layer: weight.float() for layer, weight in weights.items() if weight.dtype in COARSE}


def changed_masters(matrices: Mapping[int, OutputMatrix], before: Masters, after: Masters) -> Changes:
    """The columns of master copies that differ, as they are after."""
    copies = {
        layer: _Copy(matrices[layer].name, copy, matrices[layer].as_matrix(copy)) for layer, copy in after.items()
    }
    return {layer: (one.neurons, one.new) for layer, one in difference(copies, before).items()}


def apply_changes(matrices: Mapping[int, OutputMatrix], weights: Mapping[int, Tensor], changes: Changes) -> None:
    """Write columns [m, d] of neurons [m] into copies of matrices, in place. Raises IndexError, KeyError or
    RuntimeError where they do not fit."""
    for layer, (neurons, columns) in changes.items():
        matrix = matrices[layer].as_matrix(weights[layer])
        matrix[:, neurons.to(matrix.device)] = columns.T.to(matrix)


def are_of(matrices: Mapping[int, OutputMatrix], masters: Masters) -> bool:
    """Whether the matrices are these master copies, rounded."""
    return all(torch.equal(copy.to(matrices[layer].weight), matrices[layer].weight) for layer, copy in masters.items())
