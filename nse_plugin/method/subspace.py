"""The subspace of an update: Delta = X U^T, with U [f, s] orthonormal in the space of a layer's f neurons.

Every choice of U leads to the same symmetric system, so one Cholesky factor serves all of them:

    X = R K^T U (U^T A U + U^T K K^T U)^-1

`Neurons`: the columns of U are unit vectors (arXiv 2410.04045, section 3.3). `Basis`: they are eigenvectors of C0,
such as those that span AlphaEdit's null space (arXiv 2410.02355); with P = U U^T the update is AlphaEdit's
R K^T P (P (A + K K^T) P + c I)^-1. The eigenvectors depend on C0 alone, and finding them takes longer than the rest of
a small round, so they are kept in a store in the user's cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nse_plugin.hparams import HyperParamsError
from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.models.identity import fingerprint
from nse_plugin.store import NULL_SPACE, Store
from nse_plugin.support.files import cache_folder
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

    def diagonal(self, weight: float, ridge: float) -> Tensor | None:
        """The diagonal [s] of U^T (weight C0 + ridge I) U if it is diagonal and positive; None: it is not."""
        return None

    @property
    def columns(self) -> Tensor:
        """The columns of `W_out` that an update changes, [c] indices; here c = s."""
        return self.indices

    def expanded(self, x: Tensor) -> Tensor:
        """X U^T at `columns`, [m, c]. x: [m, s]."""
        return x

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

    def diagonal(self, weight: float, ridge: float) -> Tensor | None:
        """The diagonal [s] of U^T (weight C0 + ridge I) U if it is diagonal and positive; None: it is not."""
        found = weight * self.values + ridge
        return found if bool((found > 0).all()) else None

    @property
    def columns(self) -> Tensor:
        """The columns of `W_out` that an update changes, [c] indices; here c = f."""
        return torch.arange(len(self.vectors), device=self.vectors.device)

    def expanded(self, x: Tensor) -> Tensor:
        """X U^T at `columns`, [m, c]. x: [m, s]."""
        return x @ self.vectors.T.to(x.device)

    def equals(self, other: Neurons | Basis) -> bool:
        """Return whether the other is the same subspace."""
        return isinstance(other, Basis) and self.vectors is other.vectors


Subspace = Neurons | Basis

_NULL_SPACES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # by C0: the latest threshold and its basis
_WORTH_A_FILE = 512  # neurons; the eigenvectors of fewer are found faster than a file is read


def null_space(c0: Tensor, threshold: float, device: torch.device) -> Basis:
    """Return the eigenvectors of C0 with an eigenvalue below `threshold` (AlphaEdit's `nullspace_threshold`).

    c0: [f, f]. The latest result for each C0 is cached in memory; results for many neurons also in
    `cache_home()/null_spaces`.
    Raises HyperParamsError if no eigenvalue is below the threshold.
    """
    known = _NULL_SPACES.get(c0)  # type: ignore[no-untyped-call]
    if known is None or known[0] != threshold or known[1].vectors.device != device:
        _NULL_SPACES[c0] = known = threshold, _kept_null_space(c0, threshold, device)
    basis: Basis = known[1]
    return basis


def _kept_null_space(c0: Tensor, threshold: float, device: torch.device) -> Basis:
    folder = cache_folder("null_spaces")
    if len(c0) < _WORTH_A_FILE or folder is None:
        return _null_space(c0, threshold, device)
    store = Store(folder)
    address = hashlib.sha256(f"{fingerprint(c0)} below {threshold!r}".encode()).hexdigest()
    kept = store.get(address)  # [f + 1, s]: the eigenvalues, then the vectors
    if kept is not None and kept.dtype == torch.float64 and kept.shape[0] == len(c0) + 1:
        return Basis(kept[1:].to(device), kept[0].to(device))
    basis = _null_space(c0, threshold, device)
    store.put_all(
        [(address, torch.cat([basis.values[None].cpu(), basis.vectors.cpu()]), NULL_SPACE, f"below {threshold}")]
    )
    return basis


def _null_space(c0: Tensor, threshold: float, device: torch.device) -> Basis:
    values, vectors = torch.linalg.eigh(c0.to(device, torch.float64))
    kept = vectors[:, values < threshold].contiguous()
    if not kept.shape[1]:
        raise HyperParamsError(
            f"nullspace_threshold = {threshold} leaves no room to edit: the smallest eigenvalue of C0 is "
            f"{float(values[0]):.3g}; use a larger one."
        )
    return Basis(kept, values[values < threshold])
