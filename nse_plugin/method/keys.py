"""Keys: the activations of an edited layer's neurons at the subject's last token.

k = (k_bare + mean of k over the generated contexts) / 2        (MEMIT's weighting; k_bare alone without contexts)
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.replay.span import SpanReplay


class FactSpan:
    """Replays the edited layers for n facts: the bare prompts give keys and h, the generated contexts keys alone.

    h: [n, d], l_0's output for the bare prompt. bare_keys: {layer: [n, f]}, the bare prompts' own keys as last run.
    """

    def __init__(self, layout: Layout, layers: Sequence[int], prompts: Sequence[FactPrompts], tokens_per_batch: int):
        bare = [fact.rewrites[0] for fact in prompts]
        behind = [row for fact in prompts for row in fact.rewrites[1:]]
        self._layers = list(layers)
        self._contexts = len(prompts[0].rewrites) - 1
        self._bare = SpanReplay(layout, layers, bare, tokens_per_batch)
        self._behind = SpanReplay(layout, layers, behind, tokens_per_batch) if behind else None
        self.bare_keys: dict[int, Tensor] = {}

    def run(self) -> tuple[dict[int, Tensor], Tensor]:
        """Return ({layer: keys [n, f]}, h) on the current weights."""
        keys, h = self._bare.run()
        self.bare_keys = keys
        return self._means(keys, {} if self._behind is None else self._behind.keys()), h

    def outputs(self) -> Tensor:
        """Return h [n, d] alone."""
        return self._bare.run()[1]

    def after(self, layer: int) -> tuple[Tensor | None, Tensor]:
        """Return the next edited layer's keys [n, f] and h after an update of `layer`; no keys (None) after the last
        one.

        The layers below `layer` must not have changed since they were last run.
        """
        keys, h = self._bare.run(layer)
        self.bare_keys = {**self.bare_keys, **keys}
        if layer == self._layers[-1]:
            return None, h
        following = self._layers[self._layers.index(layer) + 1]
        behind = {} if self._behind is None else self._behind.keys(layer, following)
        return self._means({following: keys[following]}, behind)[following], h

    def part(self, facts: Sequence[int]) -> FactSpan:
        """Return the span of some of the facts (indices, ascending), with the results computed so far."""
        part = copy(self)
        part._bare = self._bare.part(facts)
        part.bare_keys = {layer: keys[list(facts)] for layer, keys in self.bare_keys.items()}
        if self._behind is not None:
            contexts = range(self._contexts)
            part._behind = self._behind.part([fact * self._contexts + i for fact in facts for i in contexts])
        return part

    def _means(self, bare: dict[int, Tensor], behind: dict[int, Tensor]) -> dict[int, Tensor]:
        """Average each layer's keys over the contexts. bare: [n, f] each. behind: [n x contexts, f] each, or empty."""
        means = {}
        for layer, keys in bare.items():
            means[layer] = keys.to(torch.promote_types(keys.dtype, torch.float32))
            if behind:
                by_fact = behind[layer].to(means[layer].dtype).view(-1, self._contexts, keys.shape[1])
                means[layer] = (means[layer] + by_fact.mean(dim=1)) / 2
        return means
