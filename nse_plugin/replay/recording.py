"""Record the arguments that a forward pass calls the model's layers with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from nse_plugin.models.layout import Layout
from nse_plugin.models.layout.batched_arguments import Call, without_hidden_states
from nse_plugin.models.transformers_private import ModelOutput
from nse_plugin.support.forward import StopForward, forward_replaced, hooked


class Record:
    """Data of one forward pass: the upper layers' calls, l_0's output, and the modules run after the last layer."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.output: Any = None
        self.tail: list[nn.Module] = []
        self.past_last_layer = False
        self.stack_output: type[ModelOutput]


@contextmanager
def recorded(layout: Layout, layer: int) -> Iterator[Record]:
    """Record the forward pass that the block runs (see `Record`); it ends before the head."""
    record = Record()

    def keep_output(_: nn.Module, __: object, output: object) -> None:
        record.output = output_of(output)

    def keep_call(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        record.calls.append(without_hidden_states(args, kwargs)[1])

    def last_layer_done(*_: object) -> None:
        record.past_last_layer = True

    def keep_tail(module: nn.Module, *_: object) -> None:
        if record.past_last_layer:
            record.tail.append(module)

    def keep_kind(_: nn.Module, __: object, output: ModelOutput) -> None:
        record.stack_output = type(output)
        raise StopForward  # before the head

    handles = [layout.layers[layer].register_forward_hook(keep_output), layout.stack.register_forward_hook(keep_kind)]
    for module in list(layout.layers)[layer + 1 :]:
        handles.append(module.register_forward_pre_hook(keep_call, with_kwargs=True))
    handles.append(layout.layers[-1].register_forward_hook(last_layer_done))
    for child in layout.stack.children():
        if child is not layout.layers:
            handles.append(child.register_forward_pre_hook(keep_tail))
    with hooked(*handles):
        yield record


@contextmanager
def passed_over(layers: Sequence[nn.Module], before: nn.Module) -> Iterator[None]:
    """Run the block with `layers` skipped: each returns its hidden states unchanged, in the form in which the layer
    `before` them returns its output. Their calls can thus be recorded without running them."""
    returned: list[Any] = []

    def passed(*args: object, **kwargs: object) -> Any:
        hidden, output = without_hidden_states(args, kwargs)[0], returned[-1]
        return with_output(output, hidden)

    handle = before.register_forward_hook(lambda _, __, output: returned.append(output))
    with hooked(handle), ExitStack() as stack:
        for layer in layers:
            stack.enter_context(forward_replaced(layer, passed))
        yield


def output_of(output: Any) -> Tensor:
    """Return a layer's output [B, S, d]: layers return it alone or first in a tuple or list, depending on model and
    version."""
    tensor: Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor


def with_output(output: Any, hidden: Tensor) -> Any:
    """Return what a layer returned, with other hidden states [B, S, d]."""
    return type(output)((hidden, *output[1:])) if isinstance(output, tuple | list) else hidden
