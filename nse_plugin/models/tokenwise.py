"""Run a part of a layer that treats every token by itself, an MLP, at some of the tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.layout import Layout, LayoutError


def mlp_of(layout: Layout, layer: int) -> nn.Module | None:
    """What holds a layer's `W_out` and is not the layer itself; None where that cannot be said."""
    try:
        name = layout.output_matrix(layer).name.removesuffix(".weight")
    except LayoutError:
        return None
    holder = layout.model.get_submodule(name.rpartition(".")[0])
    return None if holder is layout.layers[layer] else holder


@contextmanager
def only_at(module: nn.Module | None, shape: tuple[int, int], rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Within, `module` runs at these tokens of `shape` = [B, S] and gives 0 elsewhere; None: nothing changes.

    rows, positions: [m], in main memory; a token may be named twice.
    """
    if module is None:
        yield
        return
    places = torch.tensor(sorted(set((rows * shape[1] + positions).tolist())), dtype=torch.long)

    def chosen(value: Any) -> Any:
        held = isinstance(value, Tensor) and value.shape[:2] == shape
        return value.flatten(0, 1)[places.to(value.device)][None] if held else value

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return tuple(map(chosen, args)), {name: chosen(value) for name, value in kwargs.items()}

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        found, *rest = output if isinstance(output, tuple) else (output,)
        nowhere = found.new_zeros(shape[0] * shape[1], found.shape[-1])
        everywhere = nowhere.index_copy(0, places.to(found.device), found[0]).unflatten(0, shape)
        return (everywhere, *rest) if isinstance(output, tuple) else everywhere

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
