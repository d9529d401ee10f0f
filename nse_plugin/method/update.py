"""The closed-form update in a subspace U (`method/subspace.py`) of the neurons (arXiv 2410.04045, eq. 9).

Delta = R K^T U (U^T (A + K K^T) U)^-1 U^T,   A = lambda C0 + Kp Kp^T + ridge I        with K, Kp as columns

NSE: U selects neurons, no ridge. MEMIT: U = I, no Kp, no ridge. AlphaEdit: U is the null space of C0, lambda = 0. A is
the same in every pass of a round, so its Cholesky factor serves all passes, and the keys are added by Woodbury's
identity: (A + K K^T)^-1 K = A^-1 K (1 + K^T A^-1 K)^-1, an n x n system. Among eigenvectors of C0, D = U^T (lambda C0 +
ridge I) U is diagonal; while the m keys of Kp and the round's n are few, nothing of size s x s is needed:

    (D + J J^T)^-1 J = D^-1 J (1 + J^T D^-1 J)^-1,   J = U^T [Kp K], of which the last n columns are the solution
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.method.subspace import Subspace

# The largest factor kept for the next pass, in bytes: that of 8,192 neurons. The factors of five layers with 14,336
# neurons would take 8 GB, so they are computed again.
MAX_FACTOR_BYTES = 1 << 29

# Woodbury's identity loses as many digits as K^T A^-1 K has. Above this limit (keys outside the support of C0) the keys
# are added to A before it is factored.
WOODBURY_LIMIT = 1e6

log = logging.getLogger(__name__)


class UpdateError(ArithmeticError):
    """The update, or the model after it, is not finite; `EditSession.edit` restores the model."""


@dataclass
class LayerSystem:
    """The matrix A of one layer during the passes of a round.

    second_moment: [f, f], C0. protected: the keys of earlier rounds. weight: lambda. ridge: added to A's diagonal.
    reuse_factor: keep the factor [s, s] float64 for the next pass. A factor is kept only in main memory and only up to
    `MAX_FACTOR_BYTES`; otherwise memory is scarcer than the time to factor again.
    """

    second_moment: Tensor
    protected: LayerKeys
    weight: float
    ridge: float = 0.0
    reuse_factor: bool = False
    _factored: tuple[Subspace, Tensor] | None = field(default=None, repr=False)

    def matrix(self, subspace: Subspace) -> Tensor:
        """Return U^T A U, [s, s] float64."""
        return subspace.system(self.second_moment, self.protected, self.weight, self.ridge)

    def factor(self, subspace: Subspace) -> Tensor | None:
        """Return the Cholesky factor of U^T A U, [s, s]; None if U^T A U is not positive definite within rounding."""
        if self._factored is not None and self._factored[0].equals(subspace):
            return self._factored[1]
        self._factored = None  # free its memory before the next factor is computed
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(self.matrix(subspace))
        if failed:
            return None
        if self.reuse_factor and factor.device.type == "cpu" and factor.nbytes <= MAX_FACTOR_BYTES:
            self._factored = subspace, factor
        return factor


def solve_update(keys: Tensor, residuals: Tensor, system: LayerSystem, subspace: Subspace) -> Tensor:
    """Compute the change Delta of `W_out` in a subspace.

    keys: [n, f], the round's keys. residuals: [n, d], the change of the output for each fact. subspace: s-dimensional.
    Returns [d, c] float64, the change of `subspace.columns`. Solved by Cholesky, or by LU, as
    other implementations do, if rounding in a float32 C0 leaves the matrix not positive definite. Raises UpdateError if
    there is no finite solution.
    """
    k = subspace.coordinates(keys)
    solution = _with_many(k, system, subspace) if len(k) >= subspace.size else _with_few(k, system, subspace)
    delta: Tensor = residuals.to(k).T @ subspace.expanded(solution.T)
    if not bool(delta.isfinite().all()):
        raise UpdateError(
            "The update is not finite: C0 is singular or holds non-finite numbers. Measure the second moments from "
            f"more tokens (at least 10 for each of the {keys.shape[1]} neurons), or raise mom2_update_weight."
        )
    return delta


def _with_few(k: Tensor, system: LayerSystem, subspace: Subspace) -> Tensor:
    """Return (A + K K^T)^-1 K [s, n] in the subspace, for fewer keys than dimensions. k: [n, s]."""
    found = _with_diagonal(k, system, subspace)
    if found is not None:
        return found
    factor = system.factor(subspace)
    if factor is None:
        return _with_many(k, system, subspace)
    a_inverse_k = torch.cholesky_solve(k.T, factor)
    core = torch.eye(len(k)).to(k) + k @ a_inverse_k
    if not core.diagonal().max() < WOODBURY_LIMIT:
        return _with_many(k, system, subspace)
    solution: Tensor = torch.linalg.solve_ex(core, a_inverse_k, left=False).result
    return solution


def _with_diagonal(k: Tensor, system: LayerSystem, subspace: Subspace) -> Tensor | None:
    """Return (D + J J^T)^-1 K [s, n] for J = U^T [Kp K] of few keys; None if there are more, or D is not diagonal and
    positive. k: [n, s]."""
    protected, n = system.protected, len(k)
    diagonal = subspace.diagonal(system.weight, system.ridge)
    if diagonal is None or protected.square is not None or 2 * (protected.count + n) > subspace.size:
        return None
    j = torch.cat([subspace.coordinates(protected.keys.to(k.device)), k])
    scaled = j / diagonal.to(k.device)
    core = torch.eye(len(j)).to(k) + scaled @ j.T
    if not core.diagonal().max() < WOODBURY_LIMIT:
        return None
    last = torch.eye(len(j)).to(k)[:, -n:]
    solution: Tensor = scaled.T @ torch.cholesky_solve(last, torch.linalg.cholesky(core))
    return solution


def _with_many(k: Tensor, system: LayerSystem, subspace: Subspace) -> Tensor:
    """Return (A + K K^T)^-1 K [s, n] in the subspace, for any number of keys. k: [n, s]."""
    matrix = system.matrix(subspace).addmm_(k.T, k)
    solution: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        log.warning("C0 + keys is not positive definite within rounding: solved by LU. More second-moment tokens help.")
        try:
            solution = torch.linalg.solve(matrix, k.T)
        except RuntimeError:  # LinAlgError: exactly singular
            solution = torch.full_like(k.T, torch.nan)
    else:
        solution = torch.cholesky_solve(k.T, factor)
    return solution
