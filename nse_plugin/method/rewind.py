"""Rewinding: compute on the original weights, whatever has been edited since, then continue with the edited ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from nse_plugin.models.layout import OutputMatrix
from nse_plugin.support.restoring import restoring


class OriginalWeights:
    """The edited matrices as they were before the first edit, {layer: weight as the module stores it}."""

    def __init__(self, tensors: Mapping[int, Tensor]) -> None:
        self.tensors = dict(tensors)

    @classmethod
    def of(cls, matrices: Mapping[int, OutputMatrix]) -> OriginalWeights:
        """Copy the current weights of the matrices."""
        with torch.inference_mode(False):  # tensors made in inference mode could never be written to
            return cls({layer: matrix.weight.data.clone() for layer, matrix in matrices.items()})

    def check_dtypes(self, matrices: Mapping[int, OutputMatrix]) -> None:
        """Raise ValueError if the model's dtype has changed."""
        for layer, original in self.tensors.items():
            now = matrices[layer].weight.dtype
            if original.dtype != now:
                raise ValueError(
                    f"The model was in {original.dtype} when its first round was made and is in {now} now: put it "
                    "back, or begin another session on it as it is."
                )

    @contextmanager
    def rewound(self, matrices: Mapping[int, OutputMatrix]) -> Iterator[None]:
        """Context manager in which the model computes with the original weights.

        It swaps the parameters' storage and computes nothing (only an original on another device than its parameter is
        copied there), so the edited weights are restored bit for bit, even after an exception or an interrupt at any
        point. Raises ValueError if the model's dtype has changed; its device may change.
        """
        self.check_dtypes(matrices)
        edited = {layer: matrices[layer].weight.data for layer in self.tensors}

        def put_back() -> None:
            for layer, weight in edited.items():
                matrices[layer].weight.data = weight

        with restoring(put_back):
            for layer, original in self.tensors.items():
                matrices[layer].weight.data = original.to(edited[layer].device)
            yield

    def restore(self, matrices: Mapping[int, OutputMatrix]) -> None:
        """Copy the original weights back into the model permanently."""
        for layer, original in self.tensors.items():
            matrices[layer].weight.data.copy_(original)
