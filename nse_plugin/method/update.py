"""The closed-form update of the selected neurons (arXiv 2410.04045, eq. 9).

Delta[:, I] = R K_I^T (lambda C0_II + Kp_I Kp_I^T + K_I K_I^T)^-1        with K, Kp as columns
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from nse_plugin.method.knowledge import Protected

log = logging.getLogger(__name__)


class UpdateError(ArithmeticError):
    """The update has no finite solution; the model is as it was before the round."""


def solve_update(
    keys: Tensor, residuals: Tensor, second_moment: Tensor, protected: Protected, weight: float, neurons: Tensor
) -> Tensor:
    """The change of the selected columns of `W_out`.

    keys: [n, f], the round's keys. residuals: [n, d], what each is to add to the output. second_moment: [f, f], C0.
    protected: the keys of earlier rounds. weight: lambda. neurons: [s], indices into f.
    Returns [d, s], float64, by Cholesky; by LU, as the peers do, when rounding in a float32 C0 leaves the matrix
    not positive definite. Raises UpdateError when there is no finite solution.
    """
    k = keys[:, neurons].to(torch.float64)
    matrix = weight * second_moment.index_select(0, neurons.to(second_moment.device)).to(k.device)[:, neurons].to(k)
    matrix += protected.product(neurons).to(k.device)
    matrix += k.T @ k
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        log.warning("C0 + keys is not positive definite within rounding: solved by LU. More second-moment tokens help.")
        try:
            solution = torch.linalg.solve(matrix, k.T)
        except RuntimeError:  # LinAlgError: exactly singular
            solution = torch.full_like(k.T, torch.nan)
    else:
        solution = torch.cholesky_solve(k.T, factor)
    delta: Tensor = residuals.to(k).T @ solution.T
    if not bool(delta.isfinite().all()):
        raise UpdateError(
            "The update is not finite: C0 is singular or holds non-finite numbers. Measure the second moments from "
            f"more tokens (at least 10 for each of the {second_moment.shape[0]} neurons), or raise mom2_update_weight."
        )
    return delta
