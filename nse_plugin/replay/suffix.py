"""The upper part of a model, run again and again for the value step.

delta enters at the output of layer l_0 at the subject's last token, so it can change only the layers above l_0, the
positions from that token on, and, for the loss, the head at the target positions.
The tokens before the subject's last one (the prefix) are run once and their keys and values kept. The rest (the suffix;
the whole row in a model that cannot continue from cached keys and values) is run once to record the arguments of every
upper layer. Each gradient step then calls those layers again; their MLPs skip the padding, and the last layer's MLP and
the head run only at the requested positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nse_plugin.models.layout import Layout
from nse_plugin.models.layout.batched_arguments import BatchedArguments
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.first_use import batched_arguments, check_once
from nse_plugin.replay.partial_mlp import mlp_at_positions, mlp_of, tokens_up_to
from nse_plugin.replay.prefix_cache import PrefixCache, extended, packs_by_length, suffix_inputs
from nse_plugin.replay.recording import output_of, passed_over, recorded
from nse_plugin.support.forward import forward_replaced


class SuffixReplay:
    """The upper part of a model, ready to be run again and again on fixed prompts with a changing delta.

    at_lookup: [B, d], the output of layer l_0 at every row's subject's last token.
    """

    def __init__(self, layout: Layout, layer: int, prompts: Sequence[EncodedPrompt], contexts: ContextStates) -> None:
        """Run prefix and suffix once. B = len(prompts); the model must be `frozen`. contexts: a cache of context
        states, to which missing contexts of these prompts are added."""
        check_once(layout, [layer], prompts)
        self._layout, self._layer, self._prompts = layout, layer, prompts
        self._upper = list(layout.layers)[layer + 1 :]
        self._mlps = [mlp_of(layout, number) for number in range(layer + 1, len(layout.layers))]
        if layout.replay.whole_rows:
            prefix, suffixes = PrefixCache.empty(len(prompts), layout.device), [prompt.ids for prompt in prompts]
        else:
            prefixes = [prompt.ids[prompt.context : prompt.lookup] for prompt in prompts]
            prefix = extended(layout, contexts.of(layout, prompts), prefixes)
            suffixes = [prompt.ids[prompt.lookup :] for prompt in prompts]
        lookup = torch.tensor([prompt.lookup if layout.replay.whole_rows else 0 for prompt in prompts])
        self._packs = []
        for pack in packs_by_length([len(suffix) for suffix in suffixes], layout.device):
            rows = torch.tensor(pack)
            own = prefix.select_rows(rows).trim_padding()
            with torch.no_grad(), recorded(layout, layer) as record, passed_over(self._upper, layout.layers[layer]):
                layout.model(**suffix_inputs(layout, own, [suffixes[i] for i in pack]))
            own.forget(range(layer + 1))  # no step runs them again
            last = torch.tensor([len(suffixes[i]) - 1 for i in pack])
            self._packs.append(_Pack(rows, lookup[rows], record.output, record.calls, last))
        self._tail, self._stack_output = record.tail, record.stack_output
        self._find()

    def _find(self) -> None:
        """Find every row's pack, its index there, and its output of l_0 at the lookup."""
        order = torch.cat([pack.rows for pack in self._packs]).argsort()
        sizes = [len(pack.rows) for pack in self._packs]
        self._pack_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[order]
        self._place_in = torch.cat([torch.arange(size) for size in sizes])[order]
        starts = torch.cat([pack.at_lookup for pack in self._packs])
        self.at_lookup: Tensor = starts[order.to(starts.device)]

    def part(self, rows: Tensor) -> SuffixReplay:
        """Return the replay of some of the rows; rows: [m] indices, ascending."""
        part = copy(self)
        part.keep(rows)
        return part

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these; rows: [m] indices into the current ones, ascending."""
        batched = batched_arguments(self._layout, self._prompts)
        self._packs = [
            part for pack in self._packs if (part := pack.select_rows(rows, self._layer + 1, batched)) is not None
        ]
        self._find()

    def logits(self, delta: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Compute next-token logits with `delta` added at the subject's last token.

        delta: [B, d], one vector per row. rows, positions: [m], the suffix positions whose logits are returned.
        Returns [m, vocabulary], differentiable in delta.
        """
        states, wanted = [], []
        for number, pack in enumerate(self._packs):
            own = (self._pack_of[rows] == number).nonzero()[:, 0]
            states.append(self._run(pack, delta, self._place_in[rows[own]], positions[own]))
            wanted.append(own)
        together = torch.cat(states)
        return self._head(together[torch.cat(wanted).argsort().to(together.device)])

    def _run(self, pack: _Pack, delta: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Return the output of the last layer at these positions of a pack's suffixes, [m, d]."""
        moved = pack.at_lookup + delta[pack.rows.to(delta.device)].to(pack.start)
        hidden = pack.start.index_put(pack.places(), moved)
        positions = positions + pack.lookup[rows]
        shape = (hidden.shape[0], hidden.shape[1])
        tokens = tokens_up_to(pack.last)
        layers = zip(self._upper, self._mlps, pack.calls, strict=True)
        for number, (module, mlp, (args, kwargs)) in enumerate(layers, 1):
            needed = (rows, positions) if number == len(self._upper) else tokens
            with mlp_at_positions(mlp, shape, *needed):
                hidden = output_of(module(hidden, *args, **kwargs))
        return hidden[rows.to(hidden.device), positions.to(hidden.device)]

    def _head(self, hidden: Tensor) -> Tensor:
        """Compute logits [m, vocabulary] of last-layer states [m, d] by the model's own final norm, head and soft cap.

        The model's forward is called with its layer stack replaced by one that returns these states, so everything that
        a model does to its logits is also done here. The states are passed as the tokens of one row, in parts no longer
        than the model's number of positions.
        """
        size = self._layout.max_positions or max(1, len(hidden))
        return torch.cat([self._head_of(hidden[at : at + size]) for at in range(0, max(1, len(hidden)), size)])

    def _head_of(self, hidden: Tensor) -> Tensor:
        hidden = hidden[None]
        for module in self._tail:
            hidden = output_of(module(hidden))
        output = self._stack_output(last_hidden_state=hidden)
        model = self._layout.model
        with forward_replaced(self._layout.stack, lambda *_, **__: output):
            ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits[0]


@dataclass(frozen=True)
class _Pack:
    """Rows of a `SuffixReplay` with suffixes of similar length.

    rows: their indices, [B]. lookup: where the subject's last token is in each suffix, [B]. start: the output of l_0,
    [B, S, d]. calls: the arguments of the layers above. last: [B], the position of each suffix's last token; padding
    follows it.
    """

    rows: Tensor
    lookup: Tensor
    start: Tensor
    calls: list[Any]
    last: Tensor

    def places(self) -> tuple[Tensor, Tensor]:
        """Return the indices of the lookup tokens in `start`, by row and position."""
        rows = torch.arange(len(self.rows), device=self.start.device)
        return rows, self.lookup.to(self.start.device)

    @property
    def at_lookup(self) -> Tensor:
        """The output of l_0 at the lookup tokens, [B, d]."""
        return self.start[self.places()]

    def select_rows(self, rows: Tensor, first: int, batched: BatchedArguments) -> _Pack | None:
        """Return only these rows [b] of the replay, renumbered; None if the pack has none of them. first: the number of
        the layer that the first call belongs to."""
        number = {row: new for new, row in enumerate(rows.tolist())}
        held = torch.tensor([at for at, row in enumerate(self.rows.tolist()) if row in number], dtype=torch.long)
        if not len(held):
            return None
        memo: dict[int, Any] = {}
        calls = [batched.select(n, call, held, len(self.rows), memo) for n, call in enumerate(self.calls, first)]
        renumbered = torch.tensor([number[row] for row in self.rows[held].tolist()])
        start = self.start[held.to(self.start.device)]
        return _Pack(renumbered, self.lookup[held], start, calls, self.last[held])
