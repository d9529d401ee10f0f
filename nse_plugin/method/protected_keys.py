"""The keys of all earlier rounds, whose outputs later rounds must leave unchanged (knowledge accumulation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nse_plugin.support.gram import gram

# Share of f: once the Gram matrix exists, new keys are added to it only when there are this many of them. Updating the
# matrix every round would cost more than multiplying the few new keys does.
WAITING = 1 / 16


@dataclass(frozen=True)
class LayerKeys:
    """Kp of one layer: m keys, of which an update needs only Kp Kp^T.

    parts: the keys of single rounds, [n, f] each: all m keys while m < f, afterwards the keys not yet folded into
    `square`, fewer than `WAITING` x f. Their memory is shared with the owner of the rounds and is never written to.
    square: [f, f] float64, the Gram matrix (sum of k k^T) of all other keys, in main memory like C0; None if there are
    none. Once it exists, neither this object's memory nor the cost of an update grows. (A `History` keeps every round's
    keys, so that rounds can be undone: f numbers per fact and layer, in main memory.)
    """

    parts: tuple[Tensor, ...]
    square: Tensor | None = None
    count: int = 0

    @classmethod
    def of(cls, keys: Tensor) -> LayerKeys:
        """Protect keys [m, f]; m may be 0."""
        return cls((keys[:0],)).extended(keys)

    @property
    def keys(self) -> Tensor:
        """Keys not yet folded into the Gram matrix, [k, f]."""
        return torch.cat(self.parts)

    def extended(self, keys: Tensor) -> LayerKeys:
        """Return these keys together with a round's keys [n, f]."""
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
        """Return Kp_I Kp_I^T for the neurons I, [s, s] float64; the caller may modify it. neurons: [s], indices."""
        chosen = [part.to(neurons.device)[:, neurons] for part in self.parts]
        product = gram(torch.cat(chosen).to(torch.float64))
        if self.square is not None:
            places = neurons.to(self.square.device)
            every = len(places) == len(self.square)
            product += (self.square if every else self.square[places][:, places]).to(product.device)
        return product


@dataclass(frozen=True)
class ProtectedKeys:
    """The protected keys by layer; empty at first."""

    layers: dict[int, LayerKeys] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """m, the number of facts whose keys are protected."""
        return max((protected.count for protected in self.layers.values()), default=0)

    def of(self, layer: int, like: Tensor) -> LayerKeys:
        """Return Kp of a layer. like: keys [., f] of that layer, for dtype and device if it has no protected keys."""
        return self.layers.get(layer) or LayerKeys.of(like[:0])

    def extended(self, keys: Mapping[int, Tensor]) -> ProtectedKeys:
        """Return these keys together with a round's keys, {layer: [n, f]}; neither is changed."""
        return ProtectedKeys(
            {**self.layers, **{layer: self.of(layer, new).extended(new) for layer, new in keys.items()}}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return tensors for `from_tensors`: keys.N [m, f], count.N [] and square.N [f, f] for each layer N."""
        tensors: dict[str, Tensor] = {}
        for layer, protected in self.layers.items():
            tensors[f"keys.{layer}"] = protected.keys
            tensors[f"count.{layer}"] = torch.tensor(protected.count)
            if protected.square is not None:
                tensors[f"square.{layer}"] = protected.square
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ProtectedKeys:
        """Rebuild from the result of `tensors`: keys.N [m, f], count.N [] and square.N [f, f] for each layer N."""
        layers: dict[int, LayerKeys] = {}
        for name, keys in tensors.items():
            kind, _, layer = name.partition(".")
            if kind == "keys":
                count = tensors.get(f"count.{layer}", len(keys))  # files of an earlier version have no counts
                layers[int(layer)] = LayerKeys((keys,), tensors.get(f"square.{layer}"), int(count))
        return cls(layers)
