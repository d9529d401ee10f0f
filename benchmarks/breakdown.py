"""Where our own time goes: CPU seconds of each part of a round, measured with hooks and wrapped functions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.clock import cpu_seconds
from benchmarks.facts import make_facts
from benchmarks.setting import Setting
from nse_plugin.method import multilayer
from nse_plugin.models.layout import Layout

ONCE, FORWARD, HEAD = "layers, without gradients", "layers, forward", "head, forward"
BACKWARD, OPTIMISER, SOLVE, REST = "backward", "optimiser", "solve", "rest"


def shares(setting: Setting, count: int) -> dict[str, dict[str, float]]:
    """CPU seconds of computing the values of `count` facts and of writing them: {stage: {part: seconds}}."""
    facts = make_facts(count)
    session = setting.session()
    with _watched(setting.layout) as by_value:
        total_of_values = cpu_seconds(lambda: by_value.result.append(session.values(facts)))
    with setting.restored(), _watched(setting.layout) as by_update:
        total_of_update = cpu_seconds(session.edit_with_values, facts, by_value.result[0])
    return {"values": by_value.with_rest(total_of_values), "update": by_update.with_rest(total_of_update)}


class _Watch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.result: list[Any] = []
        self._began = 0.0

    def start(self, *_: Any) -> None:
        self._began = time.process_time()

    def stop(self, part: str) -> None:
        self.seconds[part] += time.process_time() - self._began

    def timed(self, work: Callable[..., Any], part: str) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            self.start()
            try:
                return work(*args, **kwargs)
            finally:
                self.stop(part)

        return within

    def with_rest(self, total: float) -> dict[str, float]:
        return {**self.seconds, REST: total - sum(self.seconds.values())}


@contextmanager
def _watched(layout: Layout) -> Iterator[_Watch]:
    """Context manager that times every call of a layer, the head, a backward pass, the optimiser and the solve."""
    watch = _Watch()
    head: nn.Module = layout.model.get_output_embeddings()  # type: ignore[operator]
    with ExitStack() as stack:
        for module in (*layout.layers, head):
            stack.callback(module.register_forward_pre_hook(watch.start).remove)
        for layer in layout.layers:
            in_layer = layer.register_forward_hook(
                lambda *_: watch.stop(FORWARD if torch.is_grad_enabled() else ONCE),
                always_call=True,  # some forward passes are ended by an exception inside a layer
            )
            stack.callback(in_layer.remove)
        stack.callback(head.register_forward_hook(lambda *_: watch.stop(HEAD)).remove)
        for owner, name, part in (
            (torch.autograd, "grad", BACKWARD),
            (torch.Tensor, "backward", BACKWARD),
            (torch.optim.Adam, "step", OPTIMISER),
            (multilayer, "solve_update", SOLVE),
        ):
            stack.enter_context(patch.object(owner, name, watch.timed(getattr(owner, name), part)))
        yield watch
