"""Run the part of a layer that treats every token by itself, its MLP, at some of the tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.layout import Layout, LayoutError, is_attention
from nse_plugin.support.forward import forward_replaced


def mlp_of(layout: Layout, layer: int) -> nn.Module | None:
    """The child of a layer in which its `W_out` lies; None where that is `W_out` itself, or is unknown."""
    try:
        writer = layout.output_matrix(layer).module
    except LayoutError:
        return None
    for child in layout.layers[layer].children():
        if child is not writer and any(module is writer for module in child.modules()):
            return None if is_attention(child) else child
    return None


@contextmanager
def mlp_at_positions(
    module: nn.Module | None, shape: tuple[int, int], rows: Tensor, positions: Tensor
) -> Iterator[None]:
    """Within, `module` runs at these tokens of `shape` = [B, S] and gives 0 elsewhere; None: nothing changes.

    rows, positions: [m], in main memory; a token may be named twice.
    """
    if module is None:
        yield
        return
    places = torch.tensor(sorted(set((rows * shape[1] + positions).tolist())), dtype=torch.long)
    everywhere = module.forward

    def chosen(value: Any) -> Any:
        held = isinstance(value, Tensor) and value.shape[:2] == shape
        return value.flatten(0, 1)[places.to(value.device)][None] if held else value

    def forward(*args: object, **kwargs: object) -> Any:
        output = everywhere(*map(chosen, args), **{name: chosen(value) for name, value in kwargs.items()})
        found, *rest = output if isinstance(output, tuple) else (output,)
        nothing = found.new_zeros(shape[0] * shape[1], found.shape[-1])
        # some mixtures of experts return their tokens in one row of rows
        whole = nothing.index_copy(0, places.to(found.device), found.flatten(0, -2)).unflatten(0, shape)
        return (whole, *rest) if isinstance(output, tuple) else whole

    # not by hooks: those of others still see all tokens
    with forward_replaced(module, forward):
        yield
