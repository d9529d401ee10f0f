"""Measure second moments with a text spread over workers: a drop-in replacement for the measurement in one process.

Sums are added in the order of the text, so they do not depend on the number of workers or their speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from nse_plugin.cluster.pool import Pool
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout
from nse_plugin.moments.corpora import SELF_WRITTEN, Batch, batches_to_write, token_batches
from nse_plugin.moments.measure import MomentSums, measure_moments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A shard's sums are f^2 numbers per layer, sent once. A shard of this many tokens per neuron makes that worthwhile.
_TOKENS_PER_NEURON = 32
_SHARDS = 64  # minimal number for text that the model writes, if it has that many batches: writing is slow


def measure_on(pool: Pool) -> Callable[..., MomentSums]:
    """Return a function to pass to `second_moments` as `measure`. The pool's workers must have the same
    hyperparameters."""

    def measure(
        layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, layers: list[int],
        sums: MomentSums, on_batch: Callable[[MomentSums], None],
    ) -> MomentSums:  # fmt: skip
        fingerprint = ModelIdentity(layout.model).full()
        shards = _shards(layout, tokenizer, hparams, sums.batches)
        for part in _in_order(pool.each("moments", ((shard, layers, fingerprint) for shard in shards))):
            for layer, total in part.sums.items():
                sums.sums[layer] = total.add_(sums.sums[layer].to(total)) if layer in sums.sums else total
            sums.tokens += part.tokens
            sums.batches += part.batches
            on_batch(sums)
        return measure_moments(layout, layers, (), sums)  # raises if there was no text

    return measure


def _shards(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, first: int
) -> Iterator[range | list[Batch]]:
    """Yield parts of the text from batch number `first` on: the token rows, or numbers of batches that the model
    writes."""
    width = layout.output_matrix(hparams.layers[0]).matrix.shape[1]
    size = max(1, _TOKENS_PER_NEURON * width // hparams.tokens_per_batch)
    if hparams.mom2_dataset == SELF_WRITTEN:
        count = batches_to_write(layout, hparams)
        size = max(1, min(size, count // _SHARDS))
        yield from (range(start, min(start + size, count)) for start in range(first, count, size))
    else:
        batches = token_batches(layout, tokenizer, hparams, first)
        while shard := list(islice(batches, size)):
            yield shard


def _in_order(numbered: Iterator[tuple[int, MomentSums]]) -> Iterator[MomentSums]:
    """Yield results in the order of their numbers, from 0; results that come early are held back."""
    early: dict[int, MomentSums] = {}
    following = 0
    for number, result in numbered:
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1
