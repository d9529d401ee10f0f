"""Does running a model's layers again give what the model itself gives? Asked once, before anything else is computed.

NSE runs layers apart from their model: after cached keys and values, from a layer in the middle, for some rows only.
That is exact where every token sees earlier tokens through attention and nothing else. State-space and convolution
layers, tokens that see later ones, positions that a model counts by itself, virtual tokens, and hooks that mix tokens
break it. So a few tokens are run both ways, and a model that differs is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.prompts import EncodedPrompt, without_end
from nse_plugin.models.replay import ContextStates, SpanReplay, SuffixReplay, output_of

_TEXT = "The old river runs through the town because of rain and wind."
_LENGTH = 8  # tokens of each row
_LOOKUPS = (4, 1, 2)  # where in each row delta is added
_LEFT = [0, 2]  # rows that go on when the other has left
_COARSEST = 1 / 16  # relative error that is never taken for rounding
_FINEST = 1e-4  # relative error that always is
# what transformers, torch and `batched` raise for calls that a layer was not made for
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
_MATMUL = {"highest": 2.0**-23, "high": 2.0**-10, "medium": 2.0**-8}  # rounding of float32 products, as torch is set


def check_model(layout: Layout, layers: Sequence[int], tokenizer: Any) -> None:
    """`check_replay`, before a model is edited for the first time; raises LayoutError also for a tokenizer that the
    model does not go with."""
    ids = [token for token in without_end(tokenizer, _TEXT) if token < layout.vocabulary]
    if not ids:
        raise LayoutError(f"The model knows none of the tokens that the tokenizer makes of {_TEXT!r}: give its own.")
    check_replay(layout, layers, ids)


def check_replay(layout: Layout, layers: Sequence[int], ids: Sequence[int]) -> None:
    """Raise LayoutError unless z, keys and residuals can be computed for these layers of this model.

    layers: the layers to be edited, ascending. ids: some tokens, repeated where they are few. The model may be edited
    already. It costs a few passes of 24 tokens, and is noted in `layout.checked`.
    """
    kind = type(layout.model).__name__
    adapter: Any = getattr(layout.model, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False):
        raise LayoutError(
            f"{kind} puts virtual tokens before every text ({adapter.peft_type.value}): edit its base model, "
            "model.get_base_model(), instead."
        )
    layout.checked.add(layers[-1])  # now, or the replays below would ask for it
    try:
        with torch.inference_mode(False), torch.no_grad(), frozen(layout.model):
            _compare(layout, list(layers), _rows(layout, ids))
    except BaseException:
        layout.checked.discard(layers[-1])
        raise


def _compare(layout: Layout, layers: list[int], rows: Sequence[EncodedPrompt]) -> None:
    kind = type(layout.model).__name__
    try:
        worst = float(torch.tensor(_errors(layout, layers, rows)).max())
    except (LayoutError, torch.OutOfMemoryError):
        raise
    except _UNSUITED as error:
        raise LayoutError(
            f"{kind} cannot be edited: NSE runs layers again after a cached prefix, which works where they see earlier "
            f"tokens through attention alone, and fails here ({type(error).__name__}: "
            f"{' '.join(str(error).split()).rstrip('.'):.160})."
        ) from error
    if not worst <= _allowed(layout.model):
        raise LayoutError(
            f"{kind} cannot be edited: NSE runs layers again after a cached prefix, and this model's then give other "
            f"outputs than the model itself ({worst:.1%} off), as with attention to later tokens, positions that a "
            "model counts by itself, state kept outside the cache, or a hook that mixes tokens."
        )


def _rows(layout: Layout, ids: Sequence[int]) -> list[EncodedPrompt]:
    """Rows of one length with different lookups, so that their prefixes and suffixes are padded."""
    length = min(_LENGTH, layout.max_positions or _LENGTH)
    if length <= max(_LOOKUPS):
        raise LayoutError(f"The model has {layout.max_positions} positions: NSE needs {max(_LOOKUPS) + 1} at least.")
    ids = tuple(ids) * _LENGTH
    return [EncodedPrompt(ids[start : start + length], lookup) for start, lookup in enumerate(_LOOKUPS)]


def _errors(layout: Layout, layers: list[int], rows: Sequence[EncodedPrompt]) -> list[float]:
    """Relative errors of replayed keys, hidden states and logits, of all rows together and of some that were left."""
    ids = torch.tensor([row.ids for row in rows], device=layout.device)
    lookups = torch.tensor([row.lookup for row in rows])
    keys, h = _own_keys(layout, layers, ids, lookups)
    span = SpanReplay(layout, layers, rows, tokens_per_batch=4096)
    errors = [_relative(found, expected) for found, expected in _pairs(span.run(), (keys, h))]
    left = span.part(_LEFT).run()
    errors += [_relative(found, expected[_LEFT]) for found, expected in _pairs(left, (keys, h))]

    delta = torch.randn(h.shape, generator=torch.Generator().manual_seed(0)).to(h)
    delta *= h.norm(dim=1, keepdim=True) / (2 * delta.norm(dim=1, keepdim=True))
    own = _own_logits(layout, layers[-1], ids, lookups, delta)
    replay = SuffixReplay(layout, layers[-1], rows, ContextStates())
    errors.append(_error_of_logits(replay, delta, own, lookups))
    replay.keep(torch.tensor(_LEFT))
    errors.append(_error_of_logits(replay, delta[_LEFT], own[_LEFT], lookups[_LEFT]))
    return errors


def _own_keys(layout: Layout, layers: Sequence[int], ids: Tensor, lookups: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """({layer: keys [n, f]}, l_0's output [n, d]) at the lookups, by the model's own forward pass."""
    seen: dict[int, Tensor] = {}
    outputs: list[Tensor] = []
    matrices = layout.output_matrices(layers)
    places = torch.arange(len(ids)), lookups

    def keep(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[layer] = matrices[layer].keys(args[0], *ids.shape)[places]

        return hook

    handles = [matrix.module.register_forward_pre_hook(keep(layer)) for layer, matrix in matrices.items()]
    last = layout.layers[layers[-1]]
    handles.append(last.register_forward_hook(lambda _, __, output: outputs.append(output_of(output)[places])))
    try:
        _check_logits(layout, layout.model(input_ids=ids), ids)
    finally:
        for handle in handles:
            handle.remove()
    return seen, outputs[0]


def _own_logits(layout: Layout, layer: int, ids: Tensor, lookups: Tensor, delta: Tensor) -> Tensor:
    """[n, S, vocabulary], with delta added to a layer's output at the lookups, by the model's own forward pass."""

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        hidden = output_of(output).clone()
        hidden[torch.arange(len(ids)), lookups] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = layout.layers[layer].register_forward_hook(add)
    try:
        logits: Tensor = layout.model(input_ids=ids).logits
    finally:
        handle.remove()
    return logits


def _check_logits(layout: Layout, output: Any, ids: Tensor) -> None:
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:-1] != ids.shape:
        raise LayoutError(
            f"{type(layout.model).__name__} does not predict a next token for every token (a base model without its "
            "head, or a classifier): load it with AutoModelForCausalLM."
        )


def _error_of_logits(replay: SuffixReplay, delta: Tensor, own: Tensor, lookups: Tensor) -> float:
    places = [(row, at) for row, lookup in enumerate(lookups.tolist()) for at in range(own.shape[1] - lookup)]
    rows, positions = torch.tensor(places).T
    return _relative(replay.logits(delta, rows, positions), own[rows, lookups[rows] + positions])


def _pairs(
    found: tuple[Mapping[int, Tensor], Tensor], expected: tuple[Mapping[int, Tensor], Tensor]
) -> list[tuple[Tensor, Tensor]]:
    return [(found[1], expected[1]), *((found[0][layer], expected[0][layer]) for layer in expected[0])]


def _relative(found: Tensor, expected: Tensor) -> float:
    """NaN where the replay alone is not finite; of a model that is not finite itself nothing can be said: 0."""
    if not expected.isfinite().all():
        return 0.0
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def _allowed(model: nn.Module) -> float:
    """The relative error that rounding may cause in the coarsest dtype the model computes in."""
    precision = _MATMUL[torch.get_float32_matmul_precision()]
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    kinds = {parameter.device.type for parameter in model.parameters()}
    dtypes |= {torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)}
    coarsest = max(precision, *(torch.finfo(dtype).eps for dtype in dtypes if dtype.itemsize > 1))
    return min(_COARSEST, max(_FINEST, 16 * coarsest))
