"""Keys and values of tokens that were already run, for the tokens that come behind them.

Rows of a past are aligned on the right, behind padding, so that distances to what follows are true for sliding windows
too. Tokens that are run behind it are padded on the right, where causal attention needs no care.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import pad_right
from nse_plugin.models.transformers_private import DynamicCache, cache_argument
from nse_plugin.support.forward import Enough

# One more pass through the layers costs as much as so many more tokens in one: their weights are read again. On
# SmolLM2, one core, 7 tokens in a pass of their own take the time of 32 among many. On a GPU, where each layer is also
# launched again, a guess.
PASS, PASS_ON_GPU = 24, 256


class Past(DynamicCache):
    """What B rows of tokens left behind. New tokens see it, and leave nothing.

    lengths: [B], tokens of each row. width: no less than the longest.
    """

    def __init__(self, lengths: Tensor, width: int) -> None:
        super().__init__()
        self.lengths, self.width = lengths, width
        self._states: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def nothing(cls, rows: int, device: torch.device) -> Past:
        """The past of rows that are still to begin."""
        return cls(torch.zeros(rows, dtype=torch.long, device=device), 0)

    @property
    def mask(self) -> Tensor:
        """[B, width], 1 where there is a token."""
        places = torch.arange(self.width, device=self.lengths.device)
        return (places >= self.width - self.lengths[:, None]).long()

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer."""
        return self._states[layer]

    def put(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Let it have keys and values of a layer, [B, heads, width, d]."""
        self._states[layer] = keys, values

    @property
    def layers_run(self) -> list[int]:
        """The layers it has keys and values of."""
        return list(self._states)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.width:
            return key_states, value_states
        keys, values = self.states(layer_idx)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.width

    def get_mask_sizes(self, query: Tensor | int, layer_idx: int = 0) -> tuple[int, int]:
        new = query if isinstance(query, int) else query.shape[0]  # a length from 5.x on, positions before
        return self.width + new, 0

    def taking(self, rows: Tensor) -> Past:
        """The past of some of the rows (indices)."""
        taken = Past(self.lengths[rows.to(self.lengths.device)], self.width)
        for layer, (keys, values) in self._states.items():
            taken.put(layer, keys[rows.to(keys.device)], values[rows.to(values.device)])
        return taken

    def trimmed(self) -> Past:
        """As wide as its longest row."""
        width = int(self.lengths.max())
        narrow = Past(self.lengths, width)
        for layer in self.layers_run if width else []:
            keys, values = self.states(layer)
            narrow.put(layer, keys[:, :, self.width - width :], values[:, :, self.width - width :])
        return narrow

    def forget(self, layers: range) -> None:
        """Let go of what these layers left."""
        for layer in layers:
            self._states.pop(layer, None)

    def of_rows(self, rows: Sequence[int]) -> Past:
        """The past of rows of which several may share one of this past's; what this one learns, they know."""
        places = torch.tensor(rows, device=self.lengths.device)
        return _Shared(self, places, int(self.lengths[places].max()))


class _Shared(Past):
    def __init__(self, source: Past, rows: Tensor, width: int) -> None:
        super().__init__(source.lengths[rows], width)
        self._source, self._rows = source, rows

    @property
    def layers_run(self) -> list[int]:
        return self._source.layers_run

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self._source.states(layer)
        rows, before = self._rows.to(keys.device), self._source.width - self.width
        return keys[rows, :, before:], values[rows, :, before:]

    def taking(self, rows: Tensor) -> Past:
        return _Shared(self._source, self._rows[rows.to(self._rows.device)], self.width)


class Growing(Past):
    """A past as it is while new tokens are run behind it, whose keys and values join it in `grown`.

    enough: the layer whose keys and values are the last that are wanted: with them the forward pass ends.
    """

    def __init__(self, past: Past, rows: Sequence[Sequence[int]], enough: int | None = None) -> None:
        super().__init__(past.lengths, past.width)
        self._past, self._enough = past, enough
        new = torch.tensor([len(row) for row in rows], device=past.lengths.device)
        width = past.width + max(len(row) for row in rows)
        self.grown = Past(past.lengths + new, width)
        places = torch.arange(width, device=new.device)
        self._source = (places - (width - past.width - new)[:, None]) % width

    def states(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._past.states(layer)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states, layer_idx)
        self.grown.put(layer_idx, self._aligned(keys), self._aligned(values))
        if layer_idx == self._enough:
            raise Enough
        return keys, values

    def _aligned(self, states: Tensor) -> Tensor:
        index = self._source.to(states.device)[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
        return states.gather(2, index)


def behind(layout: Layout, past: Past, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The model's arguments for rows of tokens that come after `past`, padded on the right; a row may be empty.

    The mask does not hide that padding: no token attends to what follows it, and a padded place that attends to nothing
    may become NaN and spread (in float64 with eager attention, under a sliding window).
    """
    ids, _ = pad_right(rows, layout.device)
    positions = past.lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
    limit = layout.max_positions
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([past.mask, torch.ones_like(ids)], dim=1),
        "position_ids": positions if limit is None else positions.clamp(max=limit - 1),  # padding only
        cache_argument(layout.model): past,
        "use_cache": True,
    }


def grown(layout: Layout, past: Past, rows: Sequence[Sequence[int]]) -> Past:
    """`past` with rows of tokens behind it, run through all layers, the last no further than its keys and values."""
    packs = packs_by_length([len(row) for row in rows], layout.device)
    parts = []
    for pack in packs:
        part, own = past.taking(torch.tensor(pack)), [rows[i] for i in pack]
        if any(own):
            growing = Growing(part, own, enough=len(layout.layers) - 1)
            with torch.no_grad(), suppress(Enough):
                layout.model(**behind(layout, growing, own), logits_to_keep=1)
            part = growing.grown
        parts.append(part)
    return joined(parts).taking(torch.tensor([row for pack in packs for row in pack]).argsort())


def packs_by_length(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Indices of rows that are run together: those of like length, where apart they save more than `PASS` tokens."""
    price = PASS if device.type == "cpu" else PASS_ON_GPU
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    packs = [order[:1]]
    for i in order[1:]:
        if len(packs[-1]) * (lengths[i] - lengths[packs[-1][-1]]) > price:
            packs.append([])
        packs[-1].append(i)
    return packs


def joined(parts: Sequence[Past]) -> Past:
    """The rows of all parts, one part behind the other."""
    width = max(part.width for part in parts)
    whole = Past(torch.cat([part.lengths for part in parts]), width)
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
    """Keys and values of rows without tokens."""
    keys, values = (one.new_zeros(rows, one.shape[1], 0, one.shape[3]) for one in like)
    return keys, values
