"""Run only the part of a model that an edit can change.

`SuffixReplay` serves the value step. delta enters at the output of layer l_0 at the subject's last token, so it
can change only: layers above l_0, positions from that token on, and, for the loss, the head at the target rows.
The tokens before the subject's last one (the prefix) are run once and their keys and values kept; the rest (the
suffix) is run once to record what every upper layer is called with; each gradient step then calls those layers
again, the last one's MLP and the head at the rows asked for.

`SpanReplay` serves the layer updates. Keys and residuals depend only on the tokens up to the subject's last one and
on the layers up to l_0, so the layers below the first edited one are run once, and each update runs the edited
layers from the one it changed: to l_0 for the output, to the next edited layer's `W_out` for its keys alone.

Nothing here knows an architecture: layers are called with the arguments that the model itself gave them, and the
final norm and head are the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.batching import batches_by_length
from nse_plugin.models.forward import Enough, forward_replaced
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.models.layout.batched_arguments import BatchedArguments, Call, without_hidden_states
from nse_plugin.models.past import Growing, Past, behind, grown, joined, packs_by_length
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.models.tokenwise import mlp_of, only_at
from nse_plugin.models.transformers_private import ModelOutput

# A pass without gradients is at full speed with this share of the tokens per batch (SmolLM2, one core: 100 facts take
# 7 s where they took 10 in one batch), and takes less memory: then the value step, not this, is where memory peaks.
SHARE = 1 / 4


class SuffixReplay:
    """The upper part of a model, ready to be run again and again on fixed prompts with a changing delta.

    at_lookup: [B, d], the output of layer l_0 at every row's subject's last token.
    """

    def __init__(self, layout: Layout, layer: int, prompts: Sequence[EncodedPrompt], contexts: ContextStates) -> None:
        """Run prefix and suffix once. B = len(prompts); the model must be `frozen`. contexts: theirs, among others'."""
        check_once(layout, [layer], prompts)
        self._layout, self._layer, self._prompts = layout, layer, prompts
        self._upper = list(layout.layers)[layer + 1 :]
        self._last_mlp = mlp_of(layout, len(layout.layers) - 1)
        past = grown(
            layout, contexts.of(layout, prompts), [prompt.ids[prompt.context : prompt.lookup] for prompt in prompts]
        )
        suffixes = [prompt.ids[prompt.lookup :] for prompt in prompts]
        self._packs = []
        for pack in packs_by_length([len(suffix) for suffix in suffixes], layout.device):
            rows = torch.tensor(pack)
            own = past.taking(rows).trimmed()
            with torch.no_grad(), _recorded(layout, layer) as record, _passed_over(self._upper, layout.layers[layer]):
                layout.model(**behind(layout, own, [suffixes[i] for i in pack]))
            own.forget(range(layer + 1))  # no step runs them again
            self._packs.append(_Pack(rows, record.output, record.calls))
        self._tail, self._stack_output = record.tail, record.stack_output
        self._find()

    def _find(self) -> None:
        """In which pack each row is, where in it, and what it shows at the lookup."""
        order = torch.cat([pack.rows for pack in self._packs]).argsort()
        sizes = [len(pack.rows) for pack in self._packs]
        self._pack_of = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[order]
        self._place_in = torch.cat([torch.arange(size) for size in sizes])[order]
        starts = torch.cat([pack.start[:, 0] for pack in self._packs])
        self.at_lookup: Tensor = starts[order.to(starts.device)]

    def part(self, rows: Tensor) -> SuffixReplay:
        """The replay of some of the rows (indices, ascending)."""
        part = copy(self)
        part.keep(rows)
        return part

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these (indices into the present ones, ascending)."""
        batched = batched_arguments(self._layout, self._prompts)
        self._packs = [
            part for pack in self._packs if (part := pack.taking(rows, self._layer + 1, batched)) is not None
        ]
        self._find()

    def logits(self, delta: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Next-token logits with `delta` added at the subject's last token.

        delta: [B, d], one vector a row. rows, positions: [m], which suffix positions' logits are wanted.
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
        """Output of the last layer at these places of a pack's suffixes, [m, d]."""
        first = pack.start[:, :1] + delta[pack.rows.to(delta.device), None].to(pack.start)
        hidden = torch.cat([first, pack.start[:, 1:]], dim=1)
        shape = (hidden.shape[0], hidden.shape[1])
        for place, (module, (args, kwargs)) in enumerate(zip(self._upper, pack.calls, strict=True), 1):
            # its module may serve an earlier layer too
            last_mlp = self._last_mlp if place == len(self._upper) else None
            with only_at(last_mlp, shape, rows, positions):
                hidden = output_of(module(hidden, *args, **kwargs))
        return hidden[rows.to(hidden.device), positions.to(hidden.device)]

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits [m, vocabulary] of last-layer states [m, d], through the model's own final norm, head and soft cap.

        The model's forward is called with its layer stack replaced by one that returns these states, so whatever a
        model does to its logits is done here too. The states pass for tokens of one row, which may have no more of them
        than the model has positions.
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
    """Rows of a `SuffixReplay` with suffixes of like length.

    rows: which they are, [B]. start: the output of l_0, [B, S, d]. calls: what the layers above are called with.
    """

    rows: Tensor
    start: Tensor
    calls: list[Any]

    def taking(self, rows: Tensor, first: int, batched: BatchedArguments) -> _Pack | None:
        """What is left of it when only these rows of the replay stay, under their new numbers. first: the layer that
        the first of the calls belongs to."""
        number = {row: new for new, row in enumerate(rows.tolist())}
        held = torch.tensor([at for at, row in enumerate(self.rows.tolist()) if row in number], dtype=torch.long)
        if not len(held):
            return None
        memo: dict[int, Any] = {}
        calls = [batched.select(n, call, held, len(self.rows), memo) for n, call in enumerate(self.calls, first)]
        renumbered = torch.tensor([number[row] for row in self.rows[held].tolist()])
        return _Pack(renumbered, self.start[held.to(self.start.device)], calls)


class SpanReplay:
    """The edited layers' keys and output at the subject's last token, on the weights as they are at each call.

    prompts: rows of which only the tokens up to the lookup matter.
    """

    def __init__(self, layout: Layout, layers: Sequence[int], prompts: Sequence[EncodedPrompt], tokens_per_batch: int):
        """Run the layers below `layers[0]` once, in batches of at most `SHARE` x `tokens_per_batch` padded tokens."""
        check_once(layout, layers, prompts)
        self._layout, self._layers, self._prompts = layout, list(layers), prompts
        self._writers = layout.output_matrices(layers)
        span = range(layers[0], layers[-1] + 1)
        contexts, place = different_contexts(prompts)
        nothing = Past.nothing(len(contexts), layout.device)
        self._contexts, shared = None, nothing
        if any(contexts):
            growing = Growing(nothing, contexts)
            self._contexts = _Chunk(layout, span, growing, contexts)
            shared = growing.grown
        rows = [prompt.ids[prompt.context : prompt.lookup + 1] for prompt in prompts]
        self._order = batches_by_length([len(row) for row in rows], int(SHARE * tokens_per_batch))
        self._chunks = [
            _Chunk(
                layout, span, shared.of_rows([place[_context(prompts[i])] for i in chosen]), [rows[i] for i in chosen]
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
        """The keys alone, to those of the edited layer `until` (None: l_0), which is run up to its `W_out`."""
        until = self._layers[-1] if until is None else until
        return self._by_row([keys for keys, _ in self._run_chunks(start, until)])

    def _run_chunks(self, start: int | None, until: int | None) -> list[tuple[dict[int, Tensor], Tensor]]:
        start = self._layers[0] if start is None else start
        if self._contexts is not None:  # first: their keys and values are what the others see
            self._run_chunk(self._contexts, start, until)
        return [self._run_chunk(chunk, start, until) for chunk in self._chunks]

    def _by_row(self, parts: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
        return {layer: self._in_order([keys[layer] for keys in parts]) for layer in parts[0]}

    def _in_order(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))[torch.tensor([i for chosen in self._order for i in chosen]).argsort()]

    def part(self, rows: Sequence[int]) -> SpanReplay:
        """The replay of some of the rows (indices, ascending), as far as this one has been run."""
        part = copy(self)
        place = {row: number for number, row in enumerate(rows)}
        held = [[at for at, row in enumerate(order) if row in place] for order in self._order]
        chunks = list(zip(self._chunks, self._order, held, strict=True))
        batched = batched_arguments(self._layout, self._prompts)
        part._chunks = [chunk.part(torch.tensor(at), batched) for chunk, _, at in chunks if at]
        part._order = [[place[order[i]] for i in at] for _, order, at in chunks if at]
        return part

    def _run_chunk(self, chunk: _Chunk, start: int, until: int | None) -> tuple[dict[int, Tensor], Tensor]:
        """Keys by layer, and the output of l_0; where `until` ends the run before, that means nothing."""
        hidden = chunk.inputs[start]
        edited = [layer for layer in self._layers if start <= layer and (until is None or layer <= until)]
        keys: dict[int, Tensor] = {}
        handles = [
            self._writers[layer].module.register_forward_pre_hook(
                _keep_keys(keys, layer, self._writers[layer], chunk.lookup, hidden.shape[1], enough=layer == until)
            )
            for layer in edited
        ]
        try:
            with torch.no_grad():
                for layer in range(start, self._layers[-1] + 1):
                    # The next update starts at the edited layer after `start`, from this input.
                    if len(edited) > 1 and layer == edited[1]:
                        chunk.remember(layer, hidden)
                    args, kwargs = chunk.calls[layer]
                    hidden = output_of(self._layout.layers[layer](hidden, *args, **kwargs))
        except Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return keys, hidden[torch.arange(len(hidden), device=hidden.device), chunk.lookup.to(hidden.device)]


class _Chunk:
    """One batch of `SpanReplay`: what its layers are called with, and the inputs the next run may start from."""

    def __init__(self, layout: Layout, span: range, past: Past, rows: Sequence[tuple[int, ...]]) -> None:
        self.lookup = torch.tensor([max(len(row), 1) - 1 for row in rows], device=layout.device)
        self.calls: dict[int, Call] = {}
        self.inputs: dict[int, Tensor] = {}
        self._first = span[0]
        handles = [
            layout.layers[layer].register_forward_pre_hook(self._recorder(layer, span), with_kwargs=True)
            for layer in span
        ]
        try:
            # the layer below tells in which form layers return; where there is none, the first itself
            first = max(span[0], 1)
            over = [layout.layers[layer] for layer in range(first, span.stop)]
            with torch.no_grad(), _passed_over(over, layout.layers[first - 1]):
                layout.model(**behind(layout, past, rows))
        except Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _recorder(self, layer: int, span: range) -> Callable[..., None]:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, self.calls[layer] = without_hidden_states(args, kwargs)
            if layer == span[0]:
                self.inputs[layer] = hidden
            if layer == span[-1]:
                raise Enough

        return record

    def part(self, rows: Tensor, batched: BatchedArguments) -> _Chunk:
        """Some of the rows (indices)."""
        part, batch = copy(self), len(self.lookup)
        memo: dict[int, Any] = {}
        part.lookup = self.lookup[rows.to(self.lookup.device)]
        part.calls = {layer: batched.select(layer, call, rows, batch, memo) for layer, call in self.calls.items()}
        part.inputs = {layer: hidden[rows.to(hidden.device)] for layer, hidden in self.inputs.items()}
        return part

    def remember(self, layer: int, hidden: Tensor) -> None:
        """Keep the input of `layer`, beside that of the first layer, and drop any other."""
        self.inputs = {self._first: self.inputs[self._first], layer: hidden}


class ContextStates:
    """Keys and values of all layers for the beginnings of rows that come from a template.

    They are alike for all facts, so each different one is run once, when it is first met; by itself, so that what was
    met before does not change a bit of it. Where the model's quick identity is another, all are forgotten. Holds no
    reference to the model.
    """

    def __init__(self) -> None:
        self._place: dict[tuple[int, ...], int] = {}
        self._past = Past.nothing(0, torch.device("cpu"))
        self._looks: str | None = None

    def of(self, layout: Layout, prompts: Sequence[EncodedPrompt]) -> Past:
        """What these rows begin with, on the weights as they are."""
        looks, device = ModelIdentity(layout.model).quick(), layout.device
        if device != self._past.lengths.device or looks != self._looks:
            self._place, self._past, self._looks = {}, Past.nothing(0, device), looks
        new = [context for context in different_contexts(prompts)[0] if context not in self._place]
        if new:
            first = len(self._past.lengths)
            alone = [grown(layout, Past.nothing(1, device), [context]) for context in new]
            self._past = joined([self._past, *alone])
            self._place |= {context: number for number, context in enumerate(new, first)}
        return self._past.of_rows([self._place[_context(prompt)] for prompt in prompts])


def different_contexts(prompts: Sequence[EncodedPrompt]) -> tuple[list[tuple[int, ...]], dict[tuple[int, ...], int]]:
    """The different contexts, one of them maybe empty, and each one's place among them."""
    place: dict[tuple[int, ...], int] = {}
    for prompt in prompts:
        place.setdefault(_context(prompt), len(place))
    return list(place), place


def _context(prompt: EncodedPrompt) -> tuple[int, ...]:
    return prompt.ids[: prompt.context]


def check_once(layout: Layout, layers: Sequence[int], prompts: Sequence[EncodedPrompt]) -> None:
    """The first time that a layout's layers are replayed, or in so long rows, check that they can be. Raises
    LayoutError."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if layout.checked.get(layers[-1], 0) < longest:
        from nse_plugin.replay.check import check_replay  # which replays them

        check_replay(layout, layers, prompts[0].ids, longest)


def batched_arguments(layout: Layout, prompts: Sequence[EncodedPrompt]) -> BatchedArguments:
    """Where rows lie in what the layout's layers are called with; the first time, two small runs of the model find out.

    prompts: some rows of tokens that the model knows.
    """
    ids = next(prompt.ids for prompt in prompts)
    ids = (ids * 5)[:5]
    rows = [(ids[:3], ids[3:5]), (ids[:1], ids[1:4]), (ids[:1], ids[1:4])]  # padded on either side, alike in both runs

    def run(count: int) -> None:
        prefixes, suffixes = zip(*rows[:count], strict=True)
        with torch.no_grad():
            past = grown(layout, Past.nothing(count, layout.device), prefixes)
            layout.model(**behind(layout, past, suffixes))

    layout.batched.find(list(layout.layers), run)
    return layout.batched


class _Record:
    """What one forward pass showed: the calls of the upper layers, l_0's output, what runs after the last layer."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.output: Any = None
        self.tail: list[nn.Module] = []
        self.past_last_layer = False
        self.stack_output: type[ModelOutput]


@contextmanager
def _recorded(layout: Layout, layer: int) -> Iterator[_Record]:
    """Record a forward pass of the model (see `_Record`), which ends before the head."""
    record = _Record()

    def keep_output(_: nn.Module, __: Any, output: Any) -> None:
        record.output = output_of(output)

    def keep_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record.calls.append(without_hidden_states(args, kwargs)[1])

    def last_layer_done(*_: Any) -> None:
        record.past_last_layer = True

    def keep_tail(module: nn.Module, *_: Any) -> None:
        if record.past_last_layer:
            record.tail.append(module)

    def keep_kind(_: nn.Module, __: Any, output: ModelOutput) -> None:
        record.stack_output = type(output)
        raise Enough  # before the head

    handles = [layout.layers[layer].register_forward_hook(keep_output), layout.stack.register_forward_hook(keep_kind)]
    for module in list(layout.layers)[layer + 1 :]:
        handles.append(module.register_forward_pre_hook(keep_call, with_kwargs=True))
    handles.append(layout.layers[-1].register_forward_hook(last_layer_done))
    for child in layout.stack.children():
        if child is not layout.layers:
            handles.append(child.register_forward_pre_hook(keep_tail))
    try:
        with suppress(Enough):
            yield record
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _passed_over(layers: Sequence[nn.Module], before: nn.Module) -> Iterator[None]:
    """Within, `layers` hand on what they are given, in the form in which the layer before them returns it: their calls
    can be recorded without their being run."""
    returned: list[Any] = []

    def passed(*args: Any, **kwargs: Any) -> Any:
        hidden, output = without_hidden_states(args, kwargs)[0], returned[-1]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = before.register_forward_hook(lambda _, __, output: returned.append(output))
    try:
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(forward_replaced(layer, passed))
            yield
    finally:
        handle.remove()


def _keep_keys(
    keys: dict[int, Tensor], layer: int, writer: OutputMatrix, lookup: Tensor, tokens: int, enough: bool
) -> Callable[..., None]:
    """A hook of `W_out`. tokens: of each row. enough: nothing behind these keys is wanted."""

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        k = writer.keys(args[0], len(lookup), tokens)
        keys[layer] = k[torch.arange(len(lookup), device=k.device), lookup.to(k.device)]
        if enough:
            raise Enough

    return keep


def output_of(output: Any) -> Tensor:
    """Layers return a tensor or a tuple, depending on model and version."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor
