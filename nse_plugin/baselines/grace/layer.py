"""GRACE's codebook at work on a layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nse_plugin.baselines.grace.codebook import Codebook


class GRACELayer:
    """A codebook at work: a forward hook on the wrapped layer, which keeps its place and its weight."""

    def __init__(self, layer: nn.Module, codebook: Codebook) -> None:
        self.layer = layer
        self.codebook = codebook
        self.handle = layer.register_forward_hook(self)
        layer.grace = self  # type: ignore[assignment]  # no module: not in the state_dict, and copied with the model

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Replace output [..., d] at the positions whose input [..., f] lies within a radius."""
        if not self.codebook.labels:
            return None
        distance, entry = self.codebook.nearest(args[0])
        within = distance <= self.codebook.radii[entry]
        if not within.any():
            return None
        return torch.where(within[..., None], self.codebook.values[entry].to(output.dtype), output)

    def unwrap(self) -> None:
        """Take the codebook off: the layer is as it was."""
        self.handle.remove()
        del self.layer.grace
