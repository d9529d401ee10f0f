"""The keys of all earlier rounds, which later rounds must leave alone (knowledge accumulation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nse_plugin.support.gram import gram

# Share of f: that many keys are collected before they are added to the square. A square made anew every round would
# cost more than multiplying the few keys does.
WAITING = 1 / 16


@dataclass(frozen=True)
class LayerKeys:
    """Kp of one layer: m keys, of which an update needs Kp Kp^T alone.

    parts: the keys of single rounds, [n, f] each; all m while m < f, afterwards those not yet in the square, fewer than
    `WAITING` x f. Their memory is shared with whoever keeps the rounds, and never written to.
    square: [f, f] float64, the sum of k k^T over the others, in main memory as C0 is; None: there are none. From there
    on neither what this holds nor the cost of an update grows. (A `History` keeps every round's keys, so that rounds
    can be undone: f numbers a fact and layer, in main memory.)
    """

    parts: tuple[Tensor, ...]
    square: Tensor | None = None
    count: int = 0

    @classmethod
    def of(cls, keys: Tensor) -> LayerKeys:
        """Keys [m, f] to protect; m may be 0."""
        return cls((keys[:0],)).extended(keys)

    @property
    def keys(self) -> Tensor:
        """Those that are not in the square, [., f]."""
        return torch.cat(self.parts)

    def extended(self, keys: Tensor) -> LayerKeys:
        """These and a round's keys [n, f]."""
        if not len(keys):
            return self
        f, parts, count = keys.shape[1], (*self.parts, keys), self.count + len(keys)
        if sum(map(len, parts)) < (f if self.square is None else WAITING * f):
            return LayerKeys(parts, self.square, count)
        square = gram(torch.cat([part.to(keys.device, torch.float64) for part in parts])).cpu()
        if self.square is not None:
            square += self.square
        return LayerKeys((keys[:0],), square, count)

    def product(self, neurons: Tensor) -> Tensor:
        """Kp_I Kp_I^T of the neurons I (indices), [s, s] float64, the caller's to change."""
        chosen = [part.to(neurons.device)[:, neurons] for part in self.parts]
        product = gram(torch.cat(chosen).to(torch.float64))
        if self.square is not None:
            places = neurons.to(self.square.device)
            every = len(places) == len(self.square)
            product += (self.square if every else self.square[places][:, places]).to(product.device)
        return product


@dataclass(frozen=True)
class ProtectedKeys:
    """What is protected, by layer; nothing at first."""

    layers: dict[int, LayerKeys] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """m, the number of facts whose keys are protected."""
        return max((protected.count for protected in self.layers.values()), default=0)

    def of(self, layer: int, like: Tensor) -> LayerKeys:
        """Kp of a layer. like: keys [., f] of it."""
        return self.layers.get(layer) or LayerKeys.of(like[:0])

    def extended(self, keys: Mapping[int, Tensor]) -> ProtectedKeys:
        """These and a round's keys, {layer: [n, f]}; neither is changed."""
        return ProtectedKeys(
            {**self.layers, **{layer: self.of(layer, new).extended(new) for layer, new in keys.items()}}
        )

    def tensors(self) -> dict[str, Tensor]:
        """By the names that `from_tensors` reads: keys.N [m, f], count.N [] and square.N [f, f] of each layer N."""
        tensors: dict[str, Tensor] = {}
        for layer, protected in self.layers.items():
            tensors[f"keys.{layer}"] = protected.keys
            tensors[f"count.{layer}"] = torch.tensor(protected.count)
            if protected.square is not None:
                tensors[f"square.{layer}"] = protected.square
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ProtectedKeys:
        """From what `tensors` returned: keys.N [m, f], count.N [] and square.N [f, f] of each layer N."""
        layers: dict[int, LayerKeys] = {}
        for name, keys in tensors.items():
            kind, _, layer = name.partition(".")
            if kind == "keys":
                count = tensors.get(f"count.{layer}", len(keys))  # an earlier version kept keys alone
                layers[int(layer)] = LayerKeys((keys,), tensors.get(f"square.{layer}"), int(count))
        return cls(layers)
