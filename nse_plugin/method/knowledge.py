"""Knowledge accumulation: the keys of all earlier rounds, which later rounds must leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Knowledge:
    """The protected keys Kp, one [m, f] matrix a layer, m facts in all; empty at first."""

    keys: dict[int, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """m, the number of facts whose keys are protected."""
        return max((len(keys) for keys in self.keys.values()), default=0)

    def of(self, layer: int, like: Tensor) -> Tensor:
        """Kp of a layer, [m, f]; [0, f] while there is none. like: [., f], for width, dtype and device."""
        keys = self.keys.get(layer)
        return like.new_zeros(0, like.shape[1]) if keys is None else keys.to(like.device)

    def extended(self, keys: Mapping[int, Tensor]) -> Knowledge:
        """This knowledge with a round's keys ({layer: [n, f]}) behind it; neither is changed."""
        return Knowledge({**self.keys, **{layer: torch.cat([self.of(layer, new), new]) for layer, new in keys.items()}})
