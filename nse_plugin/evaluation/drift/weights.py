"""Drift of the weights: norm and rank of the change of every weight."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from nse_plugin.models.layout import Layout

COLUMNS = ("name", "layer", "relative_norm", "rank", "stable_rank")


def weight_change(model: nn.Module, originals: Iterable[tuple[str, Tensor]]) -> pd.DataFrame:
    """Return one row for each weight whose value is not exactly equal to its original; weights that are not in
    `originals` are ignored.

    originals: names and tensors of any shape, as from `named_parameters()` or `state_dict().items()` of an unedited
    copy; read one at a time, so they may be loaded lazily from a file.

    Columns, with D = edited - original in float64 (a vector counts as a matrix with one row):
    name. layer: the decoder layer, missing for weights outside the decoder layers. relative_norm: Frobenius norm of D
    divided by that of the original. rank: the number of singular values of D above `_tolerance`. stable_rank:
    (Frobenius norm / spectral norm)^2. The last three are missing if D is not finite.

    Raises ValueError if the model has no weight of that name, or one of another shape.
    """
    weights = model.state_dict(keep_vars=True)  # the parameters themselves; shared parameters under all their names
    layer_of = {id(p): i for i, layer in enumerate(Layout.of(model).layers) for p in layer.parameters()}
    rows = []
    for name, original in originals:
        weight = weights.get(name)
        if weight is None or weight.shape != original.shape:
            found = "no such weight" if weight is None else f"one of shape {tuple(weight.shape)}"
            raise ValueError(
                f"originals has {name!r} of shape {tuple(original.shape)}, and the edited model has {found}: give the "
                "weights of the same model before any edit."
            )
        edited, original = weight.detach(), original.detach().to(weight.device)
        if not torch.equal(edited, original):
            rows.append({"name": name, "layer": layer_of.get(id(weight)), **_measures(edited, original)})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        {"layer": "Int64", "relative_norm": float, "rank": "Int64", "stable_rank": float}
    )


def _measures(edited: Tensor, original: Tensor) -> dict[str, object]:
    change = _matrix(edited).double() - _matrix(original).double()
    if not change.isfinite().all():
        return {"relative_norm": None, "rank": None, "stable_rank": None}
    # Zero rows and columns add no nonzero singular values; without them, an edit of a few neurons is cheap.
    values = torch.linalg.svdvals(change[change.any(dim=1)][:, change.any(dim=0)])
    squares = values.square().sum()
    return {
        "relative_norm": float(squares.sqrt() / original.double().norm()),
        "rank": int((values > _tolerance(edited, change.shape, values)).sum()),
        "stable_rank": float(squares / values[0].square()),
    }


def _tolerance(edited: Tensor, shape: torch.Size, values: Tensor) -> float:
    """Return the bound below which a singular value may be pure rounding error: the larger of two.

    Rounding in the decomposition: the largest singular value x the larger side x epsilon of float64, as in numpy's
    `matrix_rank`. Rounding of the weights to their dtype when the edit was written: at most half an epsilon relative
    to each entry, so in total at most half an epsilon x the Frobenius norm of the weights. Without the second bound,
    every change of a float32 model would have full rank.
    """
    decomposition = float(values[0]) * max(shape) * torch.finfo(torch.float64).eps
    written = float(edited.double().norm()) * torch.finfo(edited.dtype).eps / 2
    return max(decomposition, written)


def _matrix(weight: Tensor) -> Tensor:
    return weight.reshape(weight.shape[0] if weight.dim() > 1 else 1, -1)
