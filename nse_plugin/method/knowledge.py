"""Knowledge accumulation: the keys of all earlier rounds, which later rounds must leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nse_plugin.models.gram import gram

# Share of f: that many keys are collected before they are added to the square. A square made anew every round would
# cost more than multiplying the few keys does, and leave holes in the heap that the next square does not fit.
WAITING = 1 / 16


@dataclass(frozen=True)
class Protected:
    """Kp of one layer: m keys, of which an update needs Kp Kp^T alone.

    keys: [., f]; all m while m < f, afterwards only those not yet in the square, fewer than `WAITING` x f.
    square: [f, f] float64, the sum of k k^T over the others, in main memory as C0 is; None: there are none. From there
    on neither memory nor the cost of an update grows. _rows: where `keys` lies, with room behind it.
    """

    keys: Tensor
    square: Tensor | None = None
    count: int = 0
    _rows: _Rows | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, keys: Tensor) -> Protected:
        """Keys [m, f] to protect; m may be 0."""
        return cls(keys[:0]).extended(keys)

    def extended(self, keys: Tensor) -> Protected:
        """These and a round's keys [n, f]."""
        if not len(keys):
            return self
        rows = (self._rows or _Rows(self.keys)).extended(len(self.keys), keys)
        held = rows.memory[: rows.filled]
        f = keys.shape[1]
        if len(held) < (f if self.square is None else WAITING * f):
            return Protected(held, self.square, self.count + len(keys), rows)
        square = gram(held.to(torch.float64)).cpu()
        if self.square is not None:
            square += self.square
        return Protected(keys[:0], square, self.count + len(keys))

    def product(self, neurons: Tensor) -> Tensor:
        """Kp_I Kp_I^T of the neurons I (indices), [s, s] float64, the caller's to change."""
        product = gram(self.keys.to(neurons.device)[:, neurons].to(torch.float64))
        if self.square is not None:
            chosen = neurons.to(self.square.device)
            every = len(chosen) == len(self.square)
            product += (self.square if every else self.square[chosen][:, chosen]).to(product.device)
        return product


@dataclass(frozen=True)
class Knowledge:
    """What is protected, by layer; nothing at first."""

    layers: dict[int, Protected] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """m, the number of facts whose keys are protected."""
        return max((protected.count for protected in self.layers.values()), default=0)

    def of(self, layer: int, like: Tensor) -> Protected:
        """Kp of a layer. like: keys [., f] of it."""
        return self.layers.get(layer) or Protected.of(like[:0])

    def extended(self, keys: Mapping[int, Tensor]) -> Knowledge:
        """This knowledge and a round's keys, {layer: [n, f]}; neither is changed."""
        return Knowledge({**self.layers, **{layer: self.of(layer, new).extended(new) for layer, new in keys.items()}})

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by names that `from_tensors` reads."""
        tensors: dict[str, Tensor] = {}
        for layer, protected in self.layers.items():
            tensors[f"keys.{layer}"] = protected.keys
            tensors[f"count.{layer}"] = torch.tensor(protected.count)
            if protected.square is not None:
                tensors[f"square.{layer}"] = protected.square
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Knowledge:
        """What `tensors` gave."""
        layers: dict[int, Protected] = {}
        for name, keys in tensors.items():
            kind, _, layer = name.partition(".")
            if kind == "keys":
                count = tensors.get(f"count.{layer}", len(keys))  # an earlier version kept keys alone
                layers[int(layer)] = Protected(keys, tensors.get(f"square.{layer}"), int(count))
        return cls(layers)


class _Rows:
    """Rows in memory that grows by doubling; what is appended disturbs nobody who has the rows before."""

    def __init__(self, memory: Tensor) -> None:
        self.memory, self.filled = memory, len(memory)

    def extended(self, count: int, new: Tensor) -> _Rows:
        """The first `count` rows and `new` ones behind them: in place, unless others are there or the room is not."""
        rows, end = self, count + len(new)
        alike = self.memory.device == new.device and self.memory.dtype == new.dtype
        changeable = torch.is_inference_mode_enabled() or not self.memory.is_inference()
        if not (alike and changeable and self.filled == count and end <= len(self.memory)):
            room = max(min(2 * count, new.shape[1]), end)  # more than f rows never wait
            dtype = torch.promote_types(self.memory.dtype, new.dtype)
            rows = _Rows(new.new_empty(room, new.shape[1], dtype=dtype))
            rows.memory[:count] = self.memory[:count]
        rows.memory[count:end] = new
        rows.filled = end
        return rows
