"""Cached keys and values of a batch of prefixes, for the suffix tokens that follow them.

Prefixes are left-padded, so that the distance from a prefix to its suffix is also right under sliding windows. Suffix
tokens that follow the cached prefix are right-padded: causal attention needs no mask for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor
from torch.nn.functional import pad

from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import pad_right
from nse_plugin.models.transformers_private import DynamicCache, cache_argument
from nse_plugin.support.forward import StopForward

# An extra pass through the layers costs as much as this many more tokens in one pass, because the weights are read
# again. Measured on SmolLM2, one core: 7 tokens in their own pass take as long as 32 in a large pass. The GPU's value
# is a guess.
PASS, PASS_ON_GPU = 24, 256


class PrefixCache(DynamicCache):
    """A read-only cache of B prefixes: new tokens attend to it and are not added.

    lengths: [B], the number of tokens of each prefix. width: the padded length.
    """

    def __init__(self, lengths: Tensor, width: int) -> None:
        super().__init__()
        self.lengths, self.width = lengths, width
        self._states: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> PrefixCache:
        """Create a cache of prefixes without tokens."""
        return cls(torch.zeros(rows, dtype=torch.long, device=device), 0)

    @property
    def mask(self) -> Tensor:
        """[B, width], 1 for tokens and 0 for padding."""
        places = torch.arange(self.width, device=self.lengths.device)
        return (places >= self.width - self.lengths[:, None]).long()

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return the layer's keys and values, [B, heads, width, d] each."""
        return self._states[layer]

    def put(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Set the layer's keys and values, [B, heads, width, d]."""
        self._states[layer] = keys, values

    @property
    def layers_run(self) -> list[int]:
        """The layers with cached keys and values."""
        return list(self._states)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        if not self.width:
            return key_states, value_states
        keys, values = self.states(layer_idx)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width

    def get_mask_sizes(self, query: Tensor | int, layer_idx: int = 0) -> tuple[int, int]:
        new = query if isinstance(query, int) else query.shape[0]  # a token count from 5.x on, positions before
        return self.width + new, 0

    def select_rows(self, rows: Tensor) -> PrefixCache:
        """Return the cache of some rows. rows: [b], indices."""
        taken = PrefixCache(self.lengths[rows.to(self.lengths.device)], self.width)
        for layer, (keys, values) in self._states.items():
            taken.put(layer, keys[rows.to(keys.device)], values[rows.to(values.device)])
        return taken

    def trim_padding(self) -> PrefixCache:
        """Return the same prefixes, padded only to the longest one."""
        width = int(self.lengths.max())
        narrow = PrefixCache(self.lengths, width)
        for layer in self.layers_run if width else []:
            keys, values = self.states(layer)
            narrow.put(layer, keys[:, :, self.width - width :], values[:, :, self.width - width :])
        return narrow

    def forget(self, layers: range) -> None:
        """Drop the keys and values of these layers."""
        for layer in layers:
            self._states.pop(layer, None)

    def gather_rows(self, rows: Sequence[int]) -> PrefixCache:
        """Return a view in which several rows may share one prefix; later updates of this cache are visible in it."""
        places = torch.tensor(rows, device=self.lengths.device)
        return GatheredCache(self, places, int(self.lengths[places].max()))


class GatheredCache(PrefixCache):
    def __init__(self, source: PrefixCache, rows: Tensor, width: int) -> None:
        super().__init__(source.lengths[rows], width)
        self._source, self._rows = source, rows

    @property
    def layers_run(self) -> list[int]:
        return self._source.layers_run

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self._source.states(layer)
        rows, before = self._rows.to(keys.device), self._source.width - self.width
        return keys[rows, :, before:], values[rows, :, before:]

    def select_rows(self, rows: Tensor) -> PrefixCache:
        return GatheredCache(self._source, self._rows[rows.to(self._rows.device)], self.width)


class RecordingCache(PrefixCache):
    """Records the keys and values of the tokens that are run after a prefix; `grown` is the cache of both.

    last_layer: the forward pass stops after this layer's keys and values; None: it runs to the end.
    """

    def __init__(self, prefix: PrefixCache, rows: Sequence[Sequence[int]], last_layer: int | None = None) -> None:
        super().__init__(prefix.lengths, prefix.width)
        self._prefix, self._last_layer = prefix, last_layer
        new = torch.tensor([len(row) for row in rows], device=prefix.lengths.device)
        width = prefix.width + max(len(row) for row in rows)
        self.grown = PrefixCache(prefix.lengths + new, width)
        places = torch.arange(width, device=new.device)
        self._source = (places - (width - prefix.width - new)[:, None]) % width

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._prefix.states(layer)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, layer_idx)
        self.grown.put(layer_idx, self._aligned(keys), self._aligned(values))
        if layer_idx == self._last_layer:
            raise StopForward
        return keys, values

    def _aligned(self, states: Tensor) -> Tensor:
        index = self._source.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index)


def suffix_inputs(layout: Layout, prefix: PrefixCache, rows: Sequence[Sequence[int]]) -> dict[str, object]:
    """Return the model's arguments for suffixes (token ids) that follow `prefix`, right-padded; a suffix may be empty.
    If rows are run whole, these are the rows, and nothing is before them.

    The mask does not hide the right padding: no token attends to the padding after it, and a masked position that
    attends to nothing may become NaN and spread (in float64 with eager attention, under a sliding window).
    """
    ids, _ = pad_right(rows, layout.device)
    if layout.replay.whole_rows:
        # 0 is all logits: a model that does not take this argument (on transformers 4) is refused by the check and does
        # not fail later, in evaluation
        return {"input_ids": ids, "use_cache": False, "logits_to_keep": 0}
    positions = prefix.lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
    limit = layout.max_positions
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([prefix.mask, torch.ones_like(ids)], dim=1),
        "position_ids": positions if limit is None else positions.clamp(max=limit - 1),  # padding only
        cache_argument(layout.model): prefix,
        "use_cache": True,
    }


def extended(layout: Layout, prefix: PrefixCache, rows: Sequence[Sequence[int]]) -> PrefixCache:
    """Run rows of token ids after `prefix` through all layers (the last up to its keys and values); return the
    cache."""
    packs = packs_by_length([len(row) for row in rows], layout.device)
    parts = []
    for pack in packs:
        part, own = prefix.select_rows(torch.tensor(pack)), [rows[i] for i in pack]
        if any(own):
            growing = RecordingCache(part, own, last_layer=len(layout.layers) - 1)
            with torch.no_grad(), suppress(StopForward):
                layout.model(**suffix_inputs(layout, growing, own), logits_to_keep=1)
            part = growing.grown
        parts.append(part)
    return concatenated(parts).select_rows(torch.tensor([row for pack in packs for row in pack]).argsort())


def packs_by_length(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Group row indices by length: rows are split if that saves more than `PASS` (`PASS_ON_GPU`) tokens of padding."""
    price = PASS if device.type == "cpu" else PASS_ON_GPU
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    packs = [order[:1]]
    for i in order[1:]:
        if len(packs[-1]) * (lengths[i] - lengths[packs[-1][-1]]) > price:
            packs.append([])
        packs[-1].append(i)
    return packs


def concatenated(parts: Sequence[PrefixCache]) -> PrefixCache:
    """Concatenate the rows of all parts, in order."""
    width = max(part.width for part in parts)
    whole = PrefixCache(torch.cat([part.lengths for part in parts]), width)
    layers = next((part.layers_run for part in parts if part.width == width), [])
    for layer in layers if width else []:
        like = next(part for part in parts if part.width == width).states(layer)
        states = [part.states(layer) if part.width else _none(like, len(part.lengths)) for part in parts]
        keys, values = (
            torch.cat([pad(one[which], (0, 0, width - one[which].shape[2], 0)) for one in states]) for which in (0, 1)
        )
        whole.put(layer, keys, values)
    return whole


def _none(like: tuple[Tensor, Tensor], rows: int) -> tuple[Tensor, Tensor]:
    """Return the keys and values of rows without tokens, with the shape, dtype and device of `like`."""
    keys, values = (one.new_zeros(rows, one.shape[1], 0, one.shape[3]) for one in like)
    return keys, values
