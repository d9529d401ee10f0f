"""What editing changed in the weights: norm and rank of the change of every matrix."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn

from nse_plugin.models.layout import Layout

COLUMNS = ("name", "layer", "relative_norm", "rank", "stable_rank")


def weight_change(model: nn.Module, originals: Iterable[tuple[str, Tensor]]) -> pd.DataFrame:
    """A row for each weight that is not equal, to the bit, to its original; weights without one are not looked at.

    originals: names and tensors, as `named_parameters()` or `state_dict().items()` of an unedited copy give them; read
    one at a time, so they may come lazily from a file.

    With D = edited - original, in float64 (a vector counts as a matrix of one row):
    layer: the decoder layer, missing for a weight outside of them. relative_norm: Frobenius norm of D over that of the
    original. rank: singular values of D above `_tolerance`. stable_rank: (Frobenius norm / spectral norm)^2.
    A change that is not finite has none of the three.

    Raises ValueError when the model has no weight of a name, or one of another shape.
    """
    weights = model.state_dict(keep_vars=True)  # the parameters themselves, shared ones under all their names
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
    # Rows and columns of zeros add no singular value: an edit of a few neurons costs little.
    values = torch.linalg.svdvals(change[change.any(dim=1)][:, change.any(dim=0)])
    squares = values.square().sum()
    return {
        "relative_norm": float(squares.sqrt() / original.double().norm()),
        "rank": int((values > _tolerance(edited, change.shape, values)).sum()),
        "stable_rank": float(squares / values[0].square()),
    }


def _tolerance(edited: Tensor, shape: torch.Size, values: Tensor) -> float:
    """Below it, a singular value may be nothing but rounding.

    That of the decomposition: the largest value x the larger side x epsilon of float64, as numpy's `matrix_rank`. And
    that of the weights, which were rounded to their dtype when the edit was written: each entry by at most half an
    epsilon of itself, so all together by no more than half an epsilon x the Frobenius norm of the weights. Without the
    second, every change of a float32 model would have full rank.
    """
    decomposition = float(values[0]) * max(shape) * torch.finfo(torch.float64).eps
    written = float(edited.double().norm()) * torch.finfo(edited.dtype).eps / 2
    return max(decomposition, written)


def _matrix(weight: Tensor) -> Tensor:
    return weight.reshape(weight.shape[0] if weight.dim() > 1 else 1, -1)
