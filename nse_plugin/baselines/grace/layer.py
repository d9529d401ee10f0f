"""Apply GRACE's codebook to a layer's output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nse_plugin.baselines.grace.codebook import Codebook


class GRACELayer:
    """A forward hook that applies a codebook; the wrapped layer stays in the model and keeps its weight."""

    def __init__(self, layer: nn.Module, codebook: Codebook) -> None:
        self.layer = layer
        self.codebook = codebook
        self.handle = layer.register_forward_hook(self)
        layer.grace = self  # type: ignore[assignment]  # not a module: not in the state_dict, but copied with the model

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Replace output [..., d] at the positions whose input [..., f] is within the radius of its nearest key."""
        if not self.codebook.labels:
            return None
        distance, entry = self.codebook.nearest(args[0])
        within = distance <= self.codebook.radii[entry]
        if not within.any():
            return None
        return torch.where(within[..., None], self.codebook.values[entry].to(output.dtype), output)

    def unwrap(self) -> None:
        """Remove the codebook: the layer is as before."""
        self.handle.remove()
        del self.layer.grace
