"""The edited layers, run again and again for the layer updates.

Keys and residuals depend only on the tokens up to the subject's last one and on the layers up to l_0. So the layers
below the first edited one are run once, and each update runs the edited layers from the one it changed: to l_0 for the
output, or to the next edited layer's `W_out` for its keys alone. The layers' MLPs skip the padding, and the MLP of the
last layer that is run is evaluated only at the subject's last tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from nse_plugin.models.batching import batches_by_length
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.models.layout.batched_arguments import BatchedArguments, Call, without_hidden_states
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay.context_states import context_of, different_contexts
from nse_plugin.replay.first_use import batched_arguments, check_once
from nse_plugin.replay.partial_mlp import mlp_at_positions, mlp_of, tokens_up_to
from nse_plugin.replay.prefix_cache import PrefixCache, RecordingCache, suffix_inputs
from nse_plugin.replay.recording import output_of, passed_over
from nse_plugin.support.forward import StopForward, hooked

# A pass without gradients runs at full speed with this share of the tokens per batch (SmolLM2, one core: 100 facts take
# 7 s instead of 10 s in one batch), and takes less memory, so that memory peaks in the value step and not here.
SHARE = 1 / 4


class SpanReplay:
    """The edited layers' keys and output at the subject's last token, on the weights current at each call.

    prompts: rows of which only the tokens up to the lookup matter.
    """

    def __init__(self, layout: Layout, layers: Sequence[int], prompts: Sequence[EncodedPrompt], tokens_per_batch: int):
        """Run the layers below `layers[0]` once, in batches of at most `SHARE` x `tokens_per_batch` padded tokens."""
        check_once(layout, layers, prompts)
        self._layout, self._layers, self._prompts = layout, list(layers), prompts
        self._writers = layout.output_matrices(layers)
        span = range(layers[0], layers[-1] + 1)
        self._mlps = {layer: mlp_of(layout, layer) for layer in span}
        if layout.replay.whole_rows:
            prompts = [replace(prompt, context=0) for prompt in prompts]
        contexts, place = different_contexts(prompts)
        nothing = PrefixCache.empty(len(contexts), layout.device)
        self._contexts, shared = None, nothing
        if any(contexts):
            growing = RecordingCache(nothing, contexts)
            self._contexts = _Chunk(layout, span, growing, contexts)
            shared = growing.grown
        rows = [prompt.ids[prompt.context : prompt.lookup + 1] for prompt in prompts]
        self._order = batches_by_length([len(row) for row in rows], int(SHARE * tokens_per_batch))
        self._chunks = [
            _Chunk(
                layout,
                span,
                shared.gather_rows([place[context_of(prompts[i])] for i in chosen]),
                [rows[i] for i in chosen],
            )
            for chosen in self._order
        ]

    def run(self, start: int | None = None) -> tuple[dict[int, Tensor], Tensor]:
        """Run the edited layers from `start` (an edited layer; None: the first) to l_0.

        Returns ({layer: keys [n, f]} for the edited layers from `start` on, output of l_0 [n, d]). Layers below
        `start` must not have changed since the run from the edited layer before it.
        """
        parts = self._run_chunks(start, None)
        return self._by_row([keys for keys, _ in parts]), self._in_order([output for _, output in parts])

    def keys(self, start: int | None = None, until: int | None = None) -> dict[int, Tensor]:
        """Return the keys alone, {layer: [n, f]}, of the edited layers from `start` (None: the first) to `until` (None:
        l_0), which is run only up to its `W_out`."""
        until = self._layers[-1] if until is None else until
        return self._by_row([keys for keys, _ in self._run_chunks(start, until)])

    def _run_chunks(self, start: int | None, until: int | None) -> list[tuple[dict[int, Tensor], Tensor]]:
        start = self._layers[0] if start is None else start
        if self._contexts is not None:  # first: the other chunks attend to their keys and values
            self._run_chunk(self._contexts, start, until)
        return [self._run_chunk(chunk, start, until) for chunk in self._chunks]

    def _by_row(self, parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
        return {layer: self._in_order([keys[layer] for keys in parts]) for layer in parts[0]}

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))[torch.tensor([i for chosen in self._order for i in chosen]).argsort()]

    def part(self, rows: Sequence[int]) -> SpanReplay:
        """Return the replay of some of the rows (indices, ascending), with the results computed so far."""
        part = copy(self)
        place = {row: number for number, row in enumerate(rows)}
        held = [[at for at, row in enumerate(order) if row in place] for order in self._order]
        chunks = list(zip(self._chunks, self._order, held, strict=True))
        batched = batched_arguments(self._layout, self._prompts)
        part._chunks = [chunk.part(torch.tensor(at), batched) for chunk, _, at in chunks if at]
        part._order = [[place[order[i]] for i in at] for _, order, at in chunks if at]
        return part

    def _run_chunk(self, chunk: _Chunk, start: int, until: int | None) -> tuple[dict[int, Tensor], Tensor]:
        """Return the keys by layer and the output of l_0, which is meaningless if `until` ends the run early."""
        hidden = chunk.inputs[start]
        edited = [layer for layer in self._layers if start <= layer and (until is None or layer <= until)]
        last = self._layers[-1] if until is None else until
        shape, keys = (hidden.shape[0], hidden.shape[1]), dict[int, Tensor]()
        tokens, lookups = tokens_up_to(chunk.lookup), (torch.arange(shape[0]), chunk.lookup.cpu())
        for layer in range(start, last + 1):
            # The next update starts at the edited layer after `start`, from this input.
            if len(edited) > 1 and layer == edited[1]:
                chunk.remember(layer, hidden)
            args, kwargs = chunk.calls[layer]
            needed = lookups if layer == last else tokens
            with torch.no_grad(), mlp_at_positions(self._mlps[layer], shape, *needed) as places:
                keep = _keep_keys(keys, layer, self._writers.get(layer), shape, lookups, places, layer == until)
                with hooked(*keep):
                    hidden = output_of(self._layout.layers[layer](hidden, *args, **kwargs))
        return keys, hidden[torch.arange(len(hidden), device=hidden.device), chunk.lookup.to(hidden.device)]


class _Chunk:
    """One batch of `SpanReplay`: the arguments of its layers, and the inputs from which the next run may start."""

    def __init__(self, layout: Layout, span: range, prefix: PrefixCache, rows: Sequence[tuple[int, ...]]) -> None:
        self.lookup = torch.tensor([max(len(row), 1) - 1 for row in rows], device=layout.device)
        self.calls: dict[int, Call] = {}
        self.inputs: dict[int, Tensor] = {}
        self._first = span[0]
        handles = [
            layout.layers[layer].register_forward_pre_hook(self._recorder(layer, span), with_kwargs=True)
            for layer in span
        ]
        # the layer below shows in which form layers return their output; if there is none, the first layer does
        first = max(span[0], 1)
        over = [layout.layers[layer] for layer in range(first, span.stop)]
        with hooked(*handles), torch.no_grad(), passed_over(over, layout.layers[first - 1]):
            layout.model(**suffix_inputs(layout, prefix, rows))

    def _recorder(self, layer: int, span: range) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            hidden, self.calls[layer] = without_hidden_states(args, kwargs)
            if layer == span[0]:
                self.inputs[layer] = hidden
            if layer == span[-1]:
                raise StopForward

        return record

    def part(self, rows: Tensor, batched: BatchedArguments) -> _Chunk:
        """Return the chunk with only these rows [b] (indices)."""
        part, batch = copy(self), len(self.lookup)
        memo: dict[int, Any] = {}
        part.lookup = self.lookup[rows.to(self.lookup.device)]
        part.calls = {layer: batched.select(layer, call, rows, batch, memo) for layer, call in self.calls.items()}
        part.inputs = {layer: hidden[rows.to(hidden.device)] for layer, hidden in self.inputs.items()}
        return part

    def remember(self, layer: int, hidden: Tensor) -> None:
        """Keep the input [B, tokens, d] of `layer`, along with that of the first layer, and drop any other."""
        self.inputs = {self._first: self.inputs[self._first], layer: hidden}


def _keep_keys(
    keys: dict[int, Tensor],
    layer: int,
    writer: OutputMatrix | None,
    shape: tuple[int, int],
    lookups: tuple[Tensor, Tensor],
    places: Tensor | None,
    enough: bool,
) -> list[RemovableHandle]:
    """Register a hook of `W_out` that stores its keys; none if the layer is not edited (`writer` is None).

    shape: rows and tokens of the batch. lookups: the row and position of every key. places: the tokens that `W_out` is
    given, as indices into the batch; None: all. enough: stop the pass after these keys.
    """
    if writer is None:
        return []
    at = lookups[0] * shape[1] + lookups[1]
    rows, tokens = shape if places is None else (1, len(places))
    at = at if places is None else torch.searchsorted(places, at)

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        k = writer.keys(args[0], rows, tokens).flatten(0, 1)
        keys[layer] = k[at.to(k.device)]
        if enough:
            raise StopForward

    return [writer.module.register_forward_pre_hook(keep)]
