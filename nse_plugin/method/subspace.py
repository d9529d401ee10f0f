"""The subspace of an update: Delta = X U^T, with U [f, s] orthonormal in the space of a layer's f neurons.

Every choice of U leads to the same symmetric system, so one Cholesky factor serves all of them:

    X = R K^T U (U^T A U + U^T K K^T U)^-1

`Neurons`: the columns of U are unit vectors (arXiv 2410.04045, section 3.3). `Basis`: they are eigenvectors of C0,
such as those that span AlphaEdit's null space (arXiv 2410.02355); with P = U U^T the update is AlphaEdit's
R K^T P (P (A + K K^T) P + c I)^-1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nse_plugin.hparams import HyperParamsError
from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.support.gram import gram


@dataclass(frozen=True)
class Neurons:
    """The subspace of selected neurons. indices: [s], ascending, on the device of the keys."""

    indices: Tensor

    @property
    def size(self) -> int:
        """The dimension s."""
        return len(self.indices)

    def coordinates(self, keys: Tensor) -> Tensor:
        """K^T U [n, s] float64. keys: [n, f]."""
        return keys[:, self.indices].to(torch.float64)

    def system(self, c0: Tensor, protected: LayerKeys, weight: float, ridge: float) -> Tensor:
        """U^T A U [s, s] float64, A = weight C0 + Kp Kp^T + ridge I. c0: [f, f]."""
        product = protected.product(self.indices)
        if weight:
            if len(self.indices) < len(c0):
                chosen = self.indices.to(c0.device)
                c0 = c0.index_select(0, chosen).to(self.indices.device)[:, self.indices]
            product.add_(c0.to(product), alpha=weight)
        if ridge:
            product.diagonal().add_(ridge)
        return product

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of `W_out` that change and their changes: (indices [s], X U^T [d, s]). x: [d, s]."""
        return self.indices, x

    def equals(self, other: Neurons | Basis) -> bool:
        """Return whether the other is the same subspace."""
        return isinstance(other, Neurons) and torch.equal(self.indices, other.indices)


@dataclass(frozen=True)
class Basis:
    """The span of s eigenvectors of C0. vectors: [f, s] float64, orthonormal. values: [s] float64, eigenvalues."""

    vectors: Tensor
    values: Tensor

    @property
    def size(self) -> int:
        """The dimension s."""
        return self.vectors.shape[1]

    def coordinates(self, keys: Tensor) -> Tensor:
        """K^T U [n, s] float64. keys: [n, f]."""
        return keys.to(torch.float64) @ self.vectors.to(keys.device)

    def system(self, c0: Tensor, protected: LayerKeys, weight: float, ridge: float) -> Tensor:
        """U^T A U [s, s] float64, A = weight C0 + Kp Kp^T + ridge I. U^T C0 U is diagonal, so c0 is not read."""
        product = gram(self.coordinates(protected.keys.to(self.vectors.device)))
        if protected.square is not None:
            product += self.vectors.T @ protected.square.to(product) @ self.vectors
        product.diagonal().add_(weight * self.values + ridge)
        return product

    def columns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of `W_out` that change and their changes: (indices [f], X U^T [d, f]). x: [d, s]."""
        return torch.arange(len(self.vectors), device=x.device), x @ self.vectors.T.to(x.device)

    def equals(self, other: Neurons | Basis) -> bool:
        """Return whether the other is the same subspace."""
        return isinstance(other, Basis) and self.vectors is other.vectors


Subspace = Neurons | Basis

_NULL_SPACES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by C0: the latest threshold and its basis


def null_space(c0: Tensor, threshold: float, device: torch.device) -> Basis:
    """Return the eigenvectors of C0 with an eigenvalue below `threshold` (AlphaEdit's `nullspace_threshold`).

    c0: [f, f]. The latest result for each C0 is cached. Raises HyperParamsError if no eigenvalue is below the
    threshold.
    """
    known = _NULL_SPACES.get(c0)  # type: ignore[no-untyped-call]
    if known is None or known[0] != threshold or known[1].vectors.device != device:
        values, vectors = torch.linalg.eigh(c0.to(device, torch.float64))
        kept = vectors[:, values < threshold].contiguous()
        if not kept.shape[1]:
            raise HyperParamsError(
                f"nullspace_threshold = {threshold} leaves no room to edit: the smallest eigenvalue of C0 is "
                f"{float(values[0]):.3g}; use a larger one."
            )
        _NULL_SPACES[c0] = known = threshold, Basis(kept, values[values < threshold])
    basis: Basis = known[1]
    return basis
