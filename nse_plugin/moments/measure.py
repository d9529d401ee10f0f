"""Second moments C0 = E[k k^T] of all edited layers in one pass over a text.

k is the input of `W_out` at every token. The model runs on windows of at most `WINDOW` tokens, in batches of bounded
size, and stops at the last edited layer. `corpora` provides the text; `npz` and `in_store` save the moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.models.prompts import pad_right
from nse_plugin.support.forward import StopForward, hooked
from nse_plugin.support.gram import gram

WINDOW = 1024
TOKENS_PER_NEURON = 10  # below this C0 is a poor estimate


class MomentsError(ValueError):
    """Second moments that are missing or cannot be used; the message gives the remedy."""


@dataclass
class MomentSums:
    """Running sums over a text. sums: {layer: sum of k k^T, [f, f]}. tokens, batches: the numbers processed so far."""

    sums: dict[int, Tensor]
    tokens: int = 0
    batches: int = 0


def measure_moments(
    layout: Layout,
    layers: Sequence[int],
    batches: Iterable[Sequence[Sequence[int]]],
    resume: MomentSums | None = None,
    on_batch: Callable[[MomentSums], None] = lambda sums: None,
) -> MomentSums:
    """Sum k k^T over the keys of all tokens, for all layers, with one forward pass per batch.

    batches: lists of token rows. resume: sums of an earlier, interrupted call, after whose last batch `batches` starts;
    None: start from zero. on_batch: called after each batch, e.g. to show or save progress.
    Sums are computed in float32, or float64 for a float64 model. Raises MomentsError if the text has no tokens.
    """
    matrices = layout.output_matrices(layers)
    done = resume if resume is not None else MomentSums({})
    with frozen(layout.model), torch.no_grad():
        for rows in batches:
            keys = _keys_of(layout, matrices, rows)
            for layer, k in keys.items():
                product = gram(k)
                done.sums[layer] = product.add_(done.sums[layer].to(product)) if layer in done.sums else product
            done.tokens += sum(len(row) for row in rows)
            done.batches += 1
            on_batch(done)
    if done.tokens == 0:
        raise MomentsError("The text for the second moments has no tokens: give a text with at least some sentences.")
    return done


def _keys_of(layout: Layout, matrices: dict[int, OutputMatrix], rows: Sequence[Sequence[int]]) -> dict[int, Tensor]:
    """Return the inputs of `W_out` at all tokens that are not padding, {layer: [tokens, f]}."""
    ids, mask = pad_right(rows, layout.device)
    keys: dict[int, Tensor] = {}
    last = max(matrices)

    def keep(layer: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            k = matrices[layer].keys(args[0], *ids.shape)
            k = k[mask.to(k.device).bool()]
            keys[layer] = k.to(torch.promote_types(k.dtype, torch.float32))
            if layer == last:
                raise StopForward

        return hook

    handles = [matrix.module.register_forward_pre_hook(keep(layer)) for layer, matrix in matrices.items()]
    with hooked(*handles):
        # an all-ones mask: no token attends to the padding after it, and masked positions may become NaN
        layout.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return keys
