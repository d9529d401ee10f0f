"""Cached keys and values of the context templates at the beginning of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay.prefix_cache import PrefixCache, concatenated, extended


class ContextStates:
    """Keys and values of all layers for the part of each row that comes from a template.

    They are the same for all facts, so each context is run once, when first needed. It is run alone, so that its bits
    do not depend on earlier runs. The cache is cleared when the model's quick fingerprint or its device changes. It
    holds no reference to the model.
    """

    def __init__(self) -> None:
        self._place: dict[tuple[int, ...], int] = {}
        self._prefix = PrefixCache.empty(0, torch.device("cpu"))
        self._fingerprint: str | None = None

    def of(self, layout: Layout, prompts: Sequence[EncodedPrompt]) -> PrefixCache:
        """Return the cache of the contexts that these rows begin with, one row per prompt, on the current weights."""
        fingerprint, device = ModelIdentity(layout.model).quick(), layout.device
        if device != self._prefix.lengths.device or fingerprint != self._fingerprint:
            self._place, self._prefix, self._fingerprint = {}, PrefixCache.empty(0, device), fingerprint
        new = [context for context in different_contexts(prompts)[0] if context not in self._place]
        if new:
            first = len(self._prefix.lengths)
            alone = [extended(layout, PrefixCache.empty(1, device), [context]) for context in new]
            self._prefix = concatenated([self._prefix, *alone])
            self._place |= {context: number for number, context in enumerate(new, first)}
        return self._prefix.gather_rows([self._place[context_of(prompt)] for prompt in prompts])


def different_contexts(prompts: Sequence[EncodedPrompt]) -> tuple[list[tuple[int, ...]], dict[tuple[int, ...], int]]:
    """Return the distinct contexts, one of which may be empty, and the index of each."""
    place: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        place.setdefault(context_of(prompt), len(place))
    return list(place), place


def context_of(prompt: EncodedPrompt) -> tuple[int, ...]:
    """Return the tokens of a row that come from its template."""
    return prompt.ids[: prompt.context]
