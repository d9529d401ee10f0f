"""GRACE's codebook: keys, values, radii and labels of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SAME_PROMPT = 0.01  # in units of `eps`: two keys nearer than this are the same prompt, up to rounding


@dataclass(frozen=True)
class Codebook:
    """The entries of one layer. An edit makes a new codebook, so that an existing one never changes.

    keys [n, f], values [n, d], radii [n]: float32 or float64. labels: the token ids of the n targets.
    """

    keys: Tensor
    values: Tensor
    radii: Tensor
    labels: tuple[tuple[int, ...], ...] = ()

    def nearest(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """For activations [..., f], return the distance to the nearest key and the number of its entry, both [...]."""
        rows = activations.detach().reshape(-1, activations.shape[-1]).to(self.keys.dtype)
        # exact: the faster computation by a matrix product has errors of about norm(k) * 1e-3, mainly near a key
        distances = torch.cdist(rows, self.keys, compute_mode="donot_use_mm_for_euclid_dist")
        distance, entry = distances.min(dim=1)
        return distance.view(activations.shape[:-1]), entry.view(activations.shape[:-1])

    def placed(self, key: Tensor, value: Tensor, label: tuple[int, ...], eps: float) -> tuple[Codebook, int]:
        """Return the codebook with a place for an edit, and the number of the edit's entry (the paper's Algorithm 1).

        Far from every key: a new entry (key [f], value [d], radius eps). Near a key with the same label: the radius of
        that entry grows to include the new key. Near a key with another label: a new entry, and the radii of both
        entries shrink to at most half their distance. The same prompt with another target, a case that the paper leaves
        open, replaces value and label of the existing entry.
        """
        if not self.labels:
            return self._with_entry(key, value, eps, label), 0
        distance, entry = (float(found) for found in self.nearest(key))
        i = int(entry)
        radius = float(self.radii[i])
        if distance > radius + eps:
            return self._with_entry(key, value, eps, label), len(self.labels)
        if self.labels[i] == label:
            return self._with_radius(i, max(radius, distance)), i
        if distance < SAME_PROMPT * eps:
            taken = tuple(label if j == i else old for j, old in enumerate(self.labels))
            return replace(self.with_value(i, value), labels=taken), i
        half = distance / 2
        return self._with_radius(i, min(radius, half))._with_entry(key, value, min(eps, half), label), len(self.labels)

    def _with_entry(self, key: Tensor, value: Tensor, radius: float, label: tuple[int, ...]) -> Codebook:
        return Codebook(
            torch.cat([self.keys, key[None].to(self.keys)]),
            torch.cat([self.values, value[None].to(self.values)]),
            torch.cat([self.radii, self.radii.new_tensor([radius])]),
            (*self.labels, label),
        )

    def _with_radius(self, entry: int, radius: float) -> Codebook:
        radii = self.radii.clone()
        radii[entry] = radius
        return replace(self, radii=radii)

    def with_value(self, entry: int, value: Tensor) -> Codebook:
        """Return the codebook with another value [d] for one entry; differentiable in `value`."""
        number = torch.tensor([entry], device=self.values.device)
        return replace(self, values=self.values.index_copy(0, number, value[None].to(self.values)))

    def tensors(self) -> dict[str, Tensor]:
        """Return all fields as tensors to be saved: keys [n, f], values [n, d], radii [n], and labels, int64
        [n, longest], padded with -1."""
        longest = max(map(len, self.labels), default=0)
        labels = [[*label, *[-1] * (longest - len(label))] for label in self.labels]
        return {
            "keys": self.keys,
            "values": self.values,
            "radii": self.radii,
            "labels": torch.tensor(labels, dtype=torch.long).view(len(self.labels), longest),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Codebook:
        """Inverse of `tensors()`: keys [n, f], values [n, d], radii [n], labels [n, longest]."""
        labels = tuple(tuple(token for token in row if token >= 0) for row in tensors["labels"].tolist())
        return cls(tensors["keys"], tensors["values"], tensors["radii"], labels)
