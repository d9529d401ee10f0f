"""The changes of an edit: columns of the edited matrices before and after it, exact to the bit.

Adding a difference is not exact (W + (W' - W) differs from W' in the last digit of some entries), so the values
themselves are kept. This file imports only torch, so that a patch can be applied without the rest of this library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Which = Literal["old", "new"]


class PatchError(ValueError):
    """A patch cannot be used, or cannot be used with this model or file; the message gives the remedy."""


class EditedMatrix(Protocol):
    """The interface of `nse_plugin.models.layout.OutputMatrix` that patches use."""

    @property
    def name(self) -> str:
        """The parameter's name in the model."""

    @property
    def weight(self) -> Tensor:
        """The parameter, as its module stores it: [d, f] in a Linear, [f, d] in a Conv1D."""

    @property
    def matrix(self) -> Tensor:
        """The parameter's data as [d, f], a view."""


@dataclass(frozen=True, eq=False)
class ChangedColumns:
    """The columns of one matrix W [d, f] that an edit changed.

    name: the parameter's full name in the model. neurons: [m] int64, ascending, the columns' indices. old, new: [m, d]
    in the model's dtype, in main memory; row j is column neurons[j]. shape: (d, f). transposed: the module stores W as
    [f, d], as GPT-2's Conv1D does.
    """

    name: str
    neurons: Tensor
    old: Tensor
    new: Tensor
    shape: tuple[int, int]
    transposed: bool = False


Columns = Mapping[int, ChangedColumns]  # by layer


def difference(matrices: Mapping[int, EditedMatrix], before: Mapping[int, Tensor]) -> Columns:
    """Return the columns in which matrices differ from their earlier values, compared by bits (so NaN and -0 count).

    before: the earlier weights, {layer: [d, f] or [f, d] as its module stores it}. Layers without differences are left
    out.
    """
    found: dict[int, ChangedColumns] = {}
    for layer, matrix in matrices.items():
        now, transposed = matrix.matrix, _is_transposed(matrix)
        then = (before[layer].T if transposed else before[layer]).to(now.device)
        neurons = (_bits(now) != _bits(then)).any(dim=0).nonzero()[:, 0]
        if len(neurons):
            old, new = (_columns_as_rows(side, neurons) for side in (then, now))
            found[layer] = ChangedColumns(
                matrix.name, neurons.cpu(), old, new, (now.shape[0], now.shape[1]), transposed
            )
    return found


def tensors_of(columns: Columns) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the content of a file: tensors by name (`neurons.4` [m], `old.4` and `new.4` [m, d]), and a JSON document
    with the name, shape, orientation (`transposed`) and dtype of each layer's matrix."""
    tensors = {f"{part}.{layer}": getattr(one, part) for layer, one in columns.items() for part in _PARTS}
    described = {
        str(layer): {
            "name": one.name, "shape": list(one.shape), "transposed": one.transposed, "dtype": _name_of(one.new.dtype),
        }
        for layer, one in columns.items()
    }  # fmt: skip
    return tensors, described


def columns_from(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> Columns:
    """Inverse of `tensors_of`. tensors: `neurons.4` [m], `old.4` and `new.4` [m, d]. described: the JSON document.
    Raises PatchError if the two do not match."""
    wanted = {f"{part}.{layer}" for layer in described for part in _PARTS}
    if wanted != set(tensors):
        odd = sorted(wanted ^ set(tensors))[0]
        raise PatchError(f"tensor {odd} is {'missing' if odd in wanted else 'not described'}: use an undamaged copy.")
    return {int(layer): _checked(layer, tensors, about) for layer, about in described.items()}


def check_on(columns: Columns, matrices: Mapping[int, EditedMatrix], which: Which) -> None:
    """Raise PatchError unless the matrices have the columns before (`old`) or after (`new`) the edit, bit for bit."""
    for layer, one in columns.items():
        matrix = matrices.get(layer)
        if matrix is None or matrix.name != one.name:
            other = "no such layer is edited" if matrix is None else f"layer {layer} is {matrix.name}"
            raise PatchError(f"the patch changes {one.name}, and here {other}: give the model it was made for.")
        now = matrix.matrix
        if tuple(now.shape) != one.shape or now.dtype != one.new.dtype:
            raise PatchError(
                f"{one.name} is {_name_of(now.dtype)} {list(now.shape)} here and {_name_of(one.new.dtype)} "
                f"{list(one.shape)} in the patch: load the model it was made for, in that dtype."
            )
        own = _columns_as_rows(now, one.neurons.to(now.device))
        different = int((_bits(own) != _bits(getattr(one, which))).any(dim=1).sum())
        if different:
            side = "before" if which == "old" else "after"
            raise PatchError(
                f"{different} of {len(one.neurons)} columns of {one.name} are not as they were {side} the edit: give "
                "the model as it was then."
            )


def is_on(columns: Columns, matrices: Mapping[int, EditedMatrix], which: Which) -> bool:
    """Return whether `check_on` accepts the matrices."""
    try:
        check_on(columns, matrices, which)
    except PatchError:
        return False
    return True


def same_columns(first: Columns, second: Columns) -> bool:
    """Return whether two edits replace the same columns by the same values, bit for bit."""
    (tensors, described), (others, other_described) = tensors_of(first), tensors_of(second)
    return described == other_described and all(
        tensor.shape == others[name].shape and torch.equal(_bits(tensor), _bits(others[name]))
        for name, tensor in tensors.items()
    )


def write(columns: Columns, matrices: Mapping[int, EditedMatrix], which: Which) -> None:
    """Copy the columns before (`old`) or after (`new`) the edit into the matrices, bit for bit.

    Nothing is checked: call `check_on` first.
    """
    with torch.no_grad():
        for layer, one in columns.items():
            matrix = matrices[layer].matrix
            matrix[:, one.neurons.to(matrix.device)] = getattr(one, which).T.to(matrix.device)


def composed(first: Columns, second: Columns) -> Columns:
    """Combine two edits into one. second: an edit made on the weights that `first` left.

    Columns that are equal before and after both edits are left out. Raises PatchError if the second edit was not made
    on the weights that the first one left.
    """
    found = dict(first)
    for layer, then in second.items():
        before = first.get(layer)
        joined = then if before is None else _composed_columns(before, then)
        if joined is None:
            found.pop(layer)
        else:
            found[layer] = joined
    return found


_PARTS = ("neurons", "old", "new")
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _composed_columns(first: ChangedColumns, second: ChangedColumns) -> ChangedColumns | None:
    """Combine two edits of one matrix. Returns None if all columns are equal before and after both edits."""
    if (first.name, first.shape, first.new.dtype) != (second.name, second.shape, second.new.dtype):
        raise PatchError(f"{second.name} is not {first.name} of the first patch: give two patches of one model.")
    place = {neuron: at for at, neuron in enumerate(first.neurons.tolist())}
    both = [(place[neuron], at) for at, neuron in enumerate(second.neurons.tolist()) if neuron in place]
    in_first, in_second = (torch.tensor([pair[side] for pair in both], dtype=torch.long) for side in (0, 1))
    if not torch.equal(_bits(first.new[in_first]), _bits(second.old[in_second])):
        raise PatchError(f"the second patch was not made on the weights after the first one in {first.name}.")
    neurons = torch.unique(torch.cat([first.neurons, second.neurons]))
    old, new = (torch.empty(len(neurons), first.shape[0], dtype=first.new.dtype) for _ in range(2))
    for one in (second, first):
        old[torch.searchsorted(neurons, one.neurons)] = one.old
    for one in (first, second):
        new[torch.searchsorted(neurons, one.neurons)] = one.new
    changed = (_bits(old) != _bits(new)).any(dim=1)
    if not changed.any():
        return None
    return ChangedColumns(first.name, neurons[changed], old[changed], new[changed], first.shape, first.transposed)


def _checked(layer: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> ChangedColumns:
    neurons, old, new = (tensors[f"{part}.{layer}"] for part in _PARTS)
    d, f = about["shape"]
    shapes = [tuple(side.shape) for side in (old, new)]
    if neurons.dtype != torch.int64 or neurons.dim() != 1 or shapes != [(len(neurons), d)] * 2:
        raise PatchError(
            f"layer {layer} has columns of shapes {shapes} for {tuple(neurons.shape)} neurons of {[d, f]}."
        )
    dtypes = {_name_of(side.dtype) for side in (old, new)} | {about["dtype"]}
    if len(dtypes) > 1:
        raise PatchError(f"layer {layer} has columns of dtypes {', '.join(sorted(dtypes))}: use an undamaged copy.")
    ascending = bool((neurons[1:] > neurons[:-1]).all())
    if not len(neurons) or not ascending or int(neurons[0]) < 0 or int(neurons[-1]) >= f:
        raise PatchError(f"layer {layer} has neurons that are not ascending numbers below {f}: use an undamaged copy.")
    return ChangedColumns(str(about["name"]), neurons, old, new, (d, f), bool(about["transposed"]))


def _is_transposed(matrix: EditedMatrix) -> bool:
    return matrix.matrix.stride() != matrix.weight.data.stride()


def _columns_as_rows(matrix: Tensor, neurons: Tensor) -> Tensor:
    """Return columns of a matrix [d, f] as rows [m, d], in main memory."""
    return matrix[:, neurons].T.detach().contiguous().cpu()


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(_INTEGERS[tensor.element_size()])


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
