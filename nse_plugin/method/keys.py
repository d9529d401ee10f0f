"""Keys: what the neurons of an edited layer say at the subject's last token.

k = (k_bare + mean of k over the generated contexts) / 2        (MEMIT's weighting; k_bare alone without contexts)
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.models.replay import SpanReplay


class FactSpan:
    """The edited layers replayed for a set of facts in all their contexts.

    `run(start)` gives ({layer: keys [n, f]} from layer `start` on, h [n, d]): h is l_0's output for the bare prompt.
    """

    def __init__(self, layout: Layout, layers: Sequence[int], prompts: Sequence[FactPrompts], tokens_per_batch: int):
        rows = [row for fact in prompts for row in fact.rewrites]
        self._replay = SpanReplay(layout, layers, rows, tokens_per_batch)
        self._contexts = len(prompts[0].rewrites)

    def run(self, start: int | None = None) -> tuple[dict[int, Tensor], Tensor]:
        """See the class; `start` as in `SpanReplay.run`."""
        keys, output = self._replay.run(start)
        return {layer: self._mean(rows) for layer, rows in keys.items()}, output[:: self._contexts]

    def part(self, facts: Sequence[int]) -> FactSpan:
        """The span of some of the facts (indices, ascending), as far as this one has been run."""
        part = copy(self)
        part._replay = self._replay.part([fact * self._contexts + i for fact in facts for i in range(self._contexts)])
        return part

    def _mean(self, rows: Tensor) -> Tensor:
        by_fact = rows.to(torch.promote_types(rows.dtype, torch.float32))
        by_fact = by_fact.view(-1, self._contexts, rows.shape[1])
        bare = by_fact[:, 0]
        return (bare + by_fact[:, 1:].mean(dim=1)) / 2 if self._contexts > 1 else bare
