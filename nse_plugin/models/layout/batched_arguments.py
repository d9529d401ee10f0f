"""Find the batch axis of each argument of a model's layers by running two batch sizes.

A layer is called with more than hidden states: masks, positions, rotary angles, caches, dictionaries that layers share.
To continue with some rows only, each of these must be indexed along the right axis, which its shape does not determine:
with ALiBi a bias may be [B x heads, 1, S] or [heads, 1, S], and position embeddings may be [3, B, S, d]. So the model
is run with two rows and with three, and the tensors that grow with the rows are batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nse_plugin.support.forward import hooked

Path = tuple[Any, ...]  # path of a value in a call: 0 and a position, or 1 and a keyword, then nested indices and keys
Call = tuple[tuple[Any, ...], dict[str, Any]]  # a layer's arguments, without its hidden states
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.Size)


class UnknownRowsError(ValueError):
    """The batch axis of a layer's argument is unknown; the message names the argument."""


@runtime_checkable
class Rows(Protocol):
    """An object that can select its own rows, such as a cache."""

    def select_rows(self, rows: Tensor) -> Any:
        """Return the same object for some rows; rows: their indices [m]."""


@dataclass(frozen=True)
class Axis:
    """dim: the dimension of a tensor that the rows lie in. per_row: how many of its entries belong to each row."""

    dim: int
    per_row: int


@dataclass
class BatchedArguments:
    """For every layer, which tensors among its arguments are batched, and along which dimension.

    layers: by layer number and path in the call, the `Axis` of a batched tensor, None for one that is not batched.
    Empty until `find` is called.
    """

    layers: dict[int, dict[Path, Axis | None]] = field(default_factory=dict)

    def find(self, layers: Sequence[nn.Module], run: Callable[[int], object]) -> None:
        """Run the model with two rows and with three, and compare the arguments of the layers. Later calls do nothing.

        run: runs the model on that many rows, with the same lengths both times.
        Raises UnknownRowsError if an argument changes in another way than by growing with the rows.
        """
        if not self.layers:
            two, three = _shapes(layers, run, 2), _shapes(layers, run, 3)
            self.layers = {number: _axes(number, two[number], three[number]) for number in two}

    def select(self, number: int, call: Call, rows: Tensor, batch: int, memo: dict[int, object]) -> Call:
        """Select some rows of a recorded call of layer `number`.

        rows: [m] indices. batch: how many rows the call has. memo: already selected values by `id`, so that objects
        shared by layers stay shared. Raises UnknownRowsError for a tensor that `find` has not seen.
        """
        cut = _Cut(self.layers.get(number, {}), f"Layer {number}", rows, batch, memo)
        args, kwargs = call
        with torch.no_grad():
            chosen = tuple(cut.of((0, place), value) for place, value in enumerate(args))
            return chosen, {name: cut.of((1, name), value) for name, value in kwargs.items()}


def without_hidden_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """Split a layer's call into its hidden states [B, S, d] and its other arguments."""
    if args:
        return args[0], (args[1:], kwargs)
    return kwargs["hidden_states"], ((), {name: value for name, value in kwargs.items() if name != "hidden_states"})


@dataclass(frozen=True)
class _Cut:
    """Selects some rows of one layer's call."""

    axes: Mapping[Path, Axis | None]
    layer: str
    rows: Tensor
    batch: int
    memo: dict[int, Any]

    def of(self, path: Path, value: Any) -> Any:
        if isinstance(value, _PLAIN):
            return value
        if id(value) not in self.memo:
            self.memo[id(value)] = self._cut(path, value)
        return self.memo[id(value)]

    def _cut(self, path: Path, value: object) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(path, value)
        if isinstance(value, Rows):
            return value.select_rows(self.rows)
        if isinstance(value, Mapping):
            return self._mapping(path, value)
        if isinstance(value, tuple | list):
            items = [self.of((*path, place), item) for place, item in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # a named tuple, or not
        return value

    def _mapping(self, path: Path, value: Mapping[object, object]) -> Any:
        """Select the rows of a mapping. Layers may write into a mapping that they share (Gemma 4's keys and values):
        entries that it did not have when this layer was called were written by layers that will be run again, and are
        left out."""
        cut: Any = copy(value)
        for key, item in value.items():
            if _has_tensors(item) and not any(known[: len(path) + 1] == (*path, key) for known in self.axes):
                del cut[key]
            else:
                cut[key] = self.of((*path, key), item)
        return cut

    def _tensor(self, path: Path, value: Tensor) -> Tensor:
        what = f"{self.layer} is called with {_named(path)} of shape {tuple(value.shape)}"
        if path not in self.axes:
            raise UnknownRowsError(f"{what}, which it was not called with when its arguments were looked at.")
        axis = self.axes[path]
        if axis is None:
            return value
        if value.shape[axis.dim] != self.batch * axis.per_row:
            raise UnknownRowsError(f"{what} for {self.batch} rows, of {axis.per_row} entries each.")
        entries = torch.arange(value.shape[axis.dim], device=value.device).view(self.batch, axis.per_row)
        return value.index_select(axis.dim, entries[self.rows.to(value.device)].flatten())


def _shapes(layers: Sequence[nn.Module], run: Callable[[int], object], rows: int) -> dict[int, dict[Path, object]]:
    """Return the arguments of every layer when `rows` rows are run: shapes of tensors, and plain values."""
    seen: dict[int, dict[Path, Any]] = {}

    def look(number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            seen[number] = dict(_leaves((), without_hidden_states(args, kwargs)[1]))

        return hook

    handles = [layer.register_forward_pre_hook(look(number), with_kwargs=True) for number, layer in enumerate(layers)]
    with hooked(*handles):
        run(rows)
    return seen


def _leaves(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    """Yield the paths and shapes of tensors, and plain values. Raises UnknownRowsError for other holders of tensors."""
    if isinstance(value, Tensor):
        yield path, value.shape
    elif isinstance(value, _PLAIN):
        yield path, value
    elif isinstance(value, Mapping | tuple | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves((*path, key), item)
    elif not isinstance(value, Rows) and any(
        isinstance(held, Tensor) for held in getattr(value, "__dict__", {}).values()
    ):
        raise UnknownRowsError(
            f"Layers are called with a {type(value).__name__} ({_named(path)}), which cannot be cut."
        )


def _has_tensors(value: object) -> bool:
    return any(isinstance(leaf, torch.Size) for _, leaf in _leaves((), value))


def _axes(number: int, two: Mapping[Path, object], three: Mapping[Path, object]) -> dict[Path, Axis | None]:
    """Return the axis of every tensor in a layer's call, from its shapes for two rows and for three."""
    found: dict[Path, Axis | None] = {}
    for path, small in two.items():
        large = three.get(path)
        what = f"Layer {number} is called with {_named(path)}"
        if isinstance(small, torch.Size):
            found[path] = _axis(small, large, what)
        elif small != large:
            raise UnknownRowsError(f"{what} = {small!r} for two rows and {large!r} for three.")
    return found


def _axis(two: torch.Size, three: Any, what: str) -> Axis | None:
    if two == three:
        return None
    if isinstance(three, torch.Size) and len(two) == len(three):
        grown = [dim for dim, (small, large) in enumerate(zip(two, three, strict=True)) if small != large]
        per_row = three[grown[0]] - two[grown[0]]
        if len(grown) == 1 and (two[grown[0]], three[grown[0]]) == (2 * per_row, 3 * per_row):
            return Axis(grown[0], per_row)
    raise UnknownRowsError(f"{what} of shape {tuple(two)} for two rows and {three and tuple(three)} for three.")


def _named(path: Path) -> str:
    """Format a path in a call: its keyword or position, then the keys and indices inside it."""
    return ".".join(map(str, path[1:])) or "its arguments"
