"""Check that replaying a model's layers gives the same results as the model itself, before anything else is computed.

NSE runs layers apart from their model: after cached keys and values, from a layer in the middle, for some rows only.
That is exact if every token depends on earlier tokens through attention and nothing else. State-space, linear-attention
and convolution layers, and positions that a model counts by itself, cannot be continued after cached keys and values;
then all rows are run whole, which costs more. Neither is exact with attention to later tokens, several residual
streams, virtual tokens, or hooks that mix tokens. So a few tokens are run in the model and after a cached prefix, if
that differs in whole rows, and a model whose results differ in both is rejected. Some models differ only in long rows
(rotary frequencies computed for the longest row of a batch, attention scaled by the position), so the check is repeated
with longer rows before a row is run that is longer than any row checked so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.layout.batched_arguments import BatchedArguments
from nse_plugin.models.prompts import EncodedPrompt, without_end
from nse_plugin.models.transformers_private import Conv1D
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.recording import output_of, with_output
from nse_plugin.replay.span import SpanReplay
from nse_plugin.replay.suffix import SuffixReplay
from nse_plugin.support.forward import hooked
from nse_plugin.support.rounding import relative_error, rounding_allowed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXT = "The old river runs through the town because of rain and wind."
_FEWEST, _USUAL = 8, 64  # tokens: the positions a model must have, and the length of the first check's rows
_SUFFIX = 14  # tokens of the longest suffix, which the others are padded to
_LEFT = [0, 2]  # rows that are kept when the other one is dropped
# what transformers, torch and `batched_arguments` raise if a layer does not support a call
_UNSUITED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_model(layout: Layout, layers: Sequence[int], tokenizer: PreTrainedTokenizerBase, longest: int = 1) -> bool:
    """Run `check_replay` before a model is edited for the first time, and return its result. Raises LayoutError, also
    if the tokenizer does not belong to the model."""
    return check_replay(layout, layers, known_tokens(layout, tokenizer), longest)


def known_tokens(layout: Layout, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return some tokens that the model knows. Raises LayoutError if the tokenizer does not belong to the model."""
    ids = [token for token in without_end(tokenizer, _TEXT) if token < layout.vocabulary]
    if not ids:
        raise LayoutError(f"The model knows none of the tokens that the tokenizer makes of {_TEXT!r}: give its own.")
    return ids


def check_replay(layout: Layout, layers: Sequence[int], ids: Sequence[int], longest: int = 1) -> bool:
    """Raise LayoutError unless z, keys and residuals can be computed for these layers of this model. Returns whether
    the model's outputs were finite; if they were not, the check has shown nothing.

    layers: the layers to be edited, ascending. ids: some tokens, repeated to fill the rows. longest: the number of
    tokens in the longest row that will be run. The model may already be edited. The check costs a few passes over three
    rows, the longest of 64 tokens or a higher power of two, and records that length in `layout.replay.checked`. The
    first check also determines whether rows are run whole.
    """
    kind = type(layout.model).__name__
    adapter: Any = getattr(layout.model, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False):
        raise LayoutError(
            f"{kind} puts virtual tokens before every text ({adapter.peft_type.value}): edit its base model, "
            "model.get_base_model(), instead."
        )
    own = tuple(layers)
    state = layout.replay
    before, undecided = state.checked.get(own, 0), not any(state.checked.values())
    length = max(_USUAL, 2 ** math.ceil(math.log2(longest)))
    state.checked[own] = length  # set now, or the replays below would start the check again
    try:
        with torch.inference_mode(False), torch.no_grad(), frozen(layout.model):
            rows = _check_rows(layout, ids, length)
            try:
                return _compare(layout, list(layers), rows)
            except _ReplayError:
                if not undecided:
                    raise
                state.whole_rows, state.batched = True, BatchedArguments()
                return _compare(layout, list(layers), rows)
    except BaseException:
        state.checked[own] = before
        if undecided:
            state.whole_rows, state.batched = False, BatchedArguments()
        raise


class _ReplayError(LayoutError):
    """The replayed layers fail, or give other outputs than the model."""


def _compare(layout: Layout, layers: list[int], rows: Sequence[EncodedPrompt]) -> bool:
    """Compare replayed rows with the model's own passes, and return whether the latter were finite."""
    kind = type(layout.model).__name__
    try:
        errors, is_finite = _errors(layout, layers, rows)
        worst = float(torch.tensor(errors).max())
    except (LayoutError, torch.OutOfMemoryError):
        raise
    except _UNSUITED as error:
        raise _ReplayError(
            f"{kind} cannot be edited: NSE runs the layers above the edited ones again, apart from the model, which "
            f"fails here ({_in_short(error)})."
        ) from error
    if not worst <= rounding_allowed(layout.model):
        raise _ReplayError(
            f"{kind} cannot be edited: NSE runs layers again apart from the model, and this model's then give other "
            f"outputs than the model itself ({worst:.1%} off in rows of {len(rows[-1].ids)} tokens), as with attention "
            "to later tokens, or a hook that mixes tokens."
        )
    return is_finite


def _check_rows(layout: Layout, ids: Sequence[int], length: int) -> list[EncodedPrompt]:
    """Build three rows of these tokens, the last with `length` tokens, or as many as the model has positions.

    delta is added at the rows' lookups. The first two rows have suffixes of the same length after prefixes of different
    lengths. The third has a longer suffix, unless the model has too few positions, so that suffixes are padded too; no
    row is padded beyond `length`.
    """
    length = min(length, layout.max_positions or length)
    if length < _FEWEST:
        raise LayoutError(f"The model has {layout.max_positions} positions, and NSE needs {_FEWEST} at least.")
    ids = tuple(ids) * length
    lookup = length - min(_SUFFIX, length - 4)
    shapes = ((lookup + 4, lookup), (5, 1), (length, lookup))
    return [EncodedPrompt(ids[place : place + size], lookup) for place, (size, lookup) in enumerate(shapes)]


def _errors(layout: Layout, layers: list[int], rows: Sequence[EncodedPrompt]) -> tuple[list[float], bool]:
    """Relative errors of replayed keys, hidden states and logits, for all rows together and for the `_LEFT` rows, and
    whether the model's own were finite."""
    plain = _own_passes(layout, layers, rows)
    if layout.rewrite_module_tmp is not None:
        _check_named(layout, layers, rows[1])
    h = torch.stack([one.h for one in plain])
    delta = torch.randn(h.shape, generator=torch.Generator().manual_seed(0)).to(h)
    delta *= h.norm(dim=1, keepdim=True) / (2 * delta.norm(dim=1, keepdim=True))
    moved = _own_passes(layout, layers, rows, delta)
    _check_reach(layout, layers[-1], rows, plain, moved)

    span = SpanReplay(layout, layers, rows, tokens_per_batch=4096)
    errors = _errors_of_span(span.run(), plain) + _errors_of_span(
        span.part(_LEFT).run(), [plain[place] for place in _LEFT]
    )
    replay = SuffixReplay(layout, layers[-1], rows, ContextStates())
    errors.append(_error_of_logits(replay, delta, rows, moved))
    replay.keep(torch.tensor(_LEFT))
    left = [rows[place] for place in _LEFT], [moved[place] for place in _LEFT]
    is_finite = all(bool(one.logits.isfinite().all()) for one in (*plain, *moved))
    return [*errors, _error_of_logits(replay, delta[_LEFT], *left)], is_finite


@dataclass
class _Pass:
    """Results of the model's own forward pass of one row: keys [f] by layer and l_0's output h [d] at the lookup, and
    logits [S, vocabulary]."""

    keys: dict[int, Tensor]
    h: Tensor
    logits: Tensor


def _own_passes(
    layout: Layout, layers: Sequence[int], rows: Sequence[EncodedPrompt], delta: Tensor | None = None
) -> list[_Pass]:
    """Run the model's own forward pass on each row separately. delta: [n, d], added to l_0's output at the lookups."""
    try:
        return [
            _own_pass(layout, layers, row, None if delta is None else delta[place]) for place, row in enumerate(rows)
        ]
    except (LayoutError, torch.OutOfMemoryError):
        raise
    except _UNSUITED as error:
        raise LayoutError(f"{type(layout.model).__name__} does not run on plain text: {_in_short(error)}.") from error


def _own_pass(layout: Layout, layers: Sequence[int], row: EncodedPrompt, delta: Tensor | None) -> _Pass:
    matrices = layout.output_matrices(layers)
    keys: dict[int, Tensor] = {}
    h: list[Tensor] = []

    def keep(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            keys[layer] = matrices[layer].keys(args[0], 1, len(row.ids))[0, row.lookup]

        return hook

    def move(_: nn.Module, __: object, output: object) -> Any:
        hidden = output_of(output)
        if hidden.shape != (1, len(row.ids), layout.hidden_size):
            raise LayoutError(
                f"{type(layout.model).__name__} cannot be edited: NSE needs one state of {layout.hidden_size} numbers "
                f"for each token after every layer, and here layers return {list(hidden.shape)} for a row of "
                f"{len(row.ids)} tokens (several residual streams, or tokens that the model adds)."
            )
        h.append(hidden[0, row.lookup])
        if delta is None:
            return None
        hidden = hidden.clone()
        hidden[0, row.lookup] += delta
        return with_output(output, hidden)

    handles = [matrix.module.register_forward_pre_hook(keep(layer)) for layer, matrix in matrices.items()]
    handles.append(layout.layers[layers[-1]].register_forward_hook(move))
    with hooked(*handles):
        output = layout.model(input_ids=torch.tensor([row.ids], device=layout.device))
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != (1, len(row.ids)):
        raise LayoutError(
            f"{type(layout.model).__name__} does not predict a next token for every token (a base model without its "
            "head, or a classifier): load it with AutoModelForCausalLM."
        )
    return _Pass(keys, h[0], logits[0])


def _check_named(layout: Layout, layers: Sequence[int], row: EncodedPrompt) -> None:
    """Raise LayoutError if a matrix named by rewrite_module_tmp is not the last one that its MLP runs.

    If an MLP has as many neurons as the hidden size, no shape distinguishes W_out from the matrices before it.
    """
    matrices = layout.output_matrices(layers)
    last: dict[int, nn.Module] = {}

    def note(layer: int) -> Any:
        def hook(module: nn.Module, *_: object) -> None:
            last[layer] = module

        return hook

    handles = [
        module.register_forward_hook(note(layer))
        for layer, matrix in matrices.items()
        for module in layout.model.get_submodule(matrix.name.removesuffix(".weight").rpartition(".")[0]).children()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    try:
        layout.model(input_ids=torch.tensor([row.ids], device=layout.device))
    finally:
        for handle in handles:
            handle.remove()
    for layer, matrix in matrices.items():
        if last[layer] is not matrix.module:
            raise LayoutError(
                f"rewrite_module_tmp = {layout.rewrite_module_tmp!r} names {matrix.name}, after which its MLP runs "
                "another matrix: name that one."
            )


def _check_reach(
    layout: Layout, layer: int, rows: Sequence[EncodedPrompt], plain: Sequence[_Pass], moved: Sequence[_Pass]
) -> None:
    """Raise LayoutError if delta changes no later token's logits.

    In that case no layer above l_0 attends to the token with delta, and the gradient for z would be rounding noise.
    """
    reached = any(
        not torch.equal(with_delta.logits[row.lookup + 1 :], without.logits[row.lookup + 1 :])
        for row, without, with_delta in zip(rows, plain, moved, strict=True)
    )
    if not reached:
        raise LayoutError(
            f"layers ends with {layer}, and no layer of this {type(layout.model).__name__} above it looks at what an "
            "earlier token has become there: end with a lower layer."
        )


def _errors_of_span(found: tuple[dict[int, Tensor], Tensor], own: Sequence[_Pass]) -> list[float]:
    keys, h = found
    errors = [_relative(h, torch.stack([one.h for one in own]))]
    return errors + [_relative(k, torch.stack([one.keys[layer] for one in own])) for layer, k in keys.items()]


def _error_of_logits(replay: SuffixReplay, delta: Tensor, rows: Sequence[EncodedPrompt], own: Sequence[_Pass]) -> float:
    """Relative error of the logits at all suffix positions of all rows."""
    places = [(number, at) for number, row in enumerate(rows) for at in range(len(row.ids) - row.lookup)]
    numbers, positions = torch.tensor(places).T
    expected = torch.cat([one.logits[row.lookup :] for row, one in zip(rows, own, strict=True)])
    return _relative(replay.logits(delta, numbers, positions), expected)


def _relative(found: Tensor, expected: Tensor) -> float:
    """Relative error; NaN if the replay alone is not finite, 0 if the model itself is not finite."""
    return relative_error(found, expected) if expected.isfinite().all() else 0.0


def _in_short(error: BaseException) -> str:
    """Format another library's error as a clause."""
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.'):.160}"
