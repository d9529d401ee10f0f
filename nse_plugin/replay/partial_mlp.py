"""Run a layer's MLP, which treats every token separately, at some of the tokens only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.layout import Layout, LayoutError, is_attention
from nse_plugin.support.forward import forward_replaced


def mlp_of(layout: Layout, layer: int) -> nn.Module | None:
    """Return the child of a layer that contains its `W_out`; None if the child is `W_out` itself or is unknown, or if
    rows are run whole, where it may mix tokens (a state space, RWKV's MLP)."""
    if layout.replay.whole_rows:
        return None
    try:
        writer = layout.output_matrix(layer).module
    except LayoutError:
        return None
    for child in layout.layers[layer].children():
        if child is not writer and any(module is writer for module in child.modules()):
            return None if is_attention(child) else child
    return None


def tokens_up_to(last: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the position of every token that is not padding, [m] each, in main memory. last: [B], the
    position of each row's last token."""
    rows, positions = (torch.arange(int(last.max()) + 1) <= last.cpu()[:, None]).nonzero().T
    return rows, positions


@contextmanager
def mlp_at_positions(
    module: nn.Module | None, shape: tuple[int, int], rows: Tensor, positions: Tensor
) -> Iterator[Tensor | None]:
    """Run the block with `module` evaluated only at these tokens of [B, S] = `shape`; its output is 0 elsewhere.

    module: None changes nothing. rows, positions: [m], in main memory; a token may be listed twice. Yields the tokens
    that the module is evaluated at, as indices into B x S in ascending order; None for all of them.
    """
    if module is None:
        yield None
        return
    places = torch.unique(rows * shape[1] + positions)
    if len(places) == shape[0] * shape[1]:
        yield None
        return
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

    # not by hooks: hooks of other code still see all tokens
    with forward_replaced(module, forward):
        yield places
