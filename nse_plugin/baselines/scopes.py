"""Context managers for running an EasyEdit algorithm: model flags, random numbers, module globals, and output."""

from __future__ import annotations

import io
import logging
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from nse_plugin.models.writing.generation import continue_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_MEMORIES = ("CONTEXT_TEMPLATES_CACHE", "COV_CACHE", "inv_mom2_cache")  # module globals that hold state


def text_writer(seed: int) -> Callable[..., list[str]]:
    """Return a replacement for EasyEdit's `generate_fast` that takes the same arguments and samples with `seed`."""

    def generate(
        model: nn.Module,
        tok: PreTrainedTokenizerBase,
        prompts: Sequence[str],
        n_gen_per_prompt: int = 1,
        top_k: int = 5,
        max_out_len: int = 200,
    ) -> list[str]:
        every = [prompt for prompt in prompts for _ in range(n_gen_per_prompt)]
        # different draws for each length, so that texts do not begin alike
        places = range(1000 * max_out_len, 1000 * max_out_len + len(every))
        texts = continue_texts(model, tok, every, total_tokens=max_out_len, top_k=top_k, seed=seed, places=places)
        return [" ".join(text.split()) for text in texts]

    return generate


@contextmanager
def own_memories(modules: Sequence[ModuleType], memories: dict[tuple[str, str], object]) -> Iterator[None]:
    """Run the block with the algorithm's module globals from `memories`, by module and name; afterwards store them
    there again and restore the previous ones."""
    others = {
        (module.__name__, name): getattr(module, name)
        for module in modules
        for name in _MEMORIES
        if hasattr(module, name)
    }
    for place, other in others.items():
        setattr(sys.modules[place[0]], place[1], memories.get(place, {} if isinstance(other, dict) else None))
    try:
        yield
    finally:
        for (module_name, name), other in others.items():
            memories[module_name, name] = getattr(sys.modules[module_name], name)
            setattr(sys.modules[module_name], name, other)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode. Afterwards training modes, `requires_grad` and gradients are as before; new
    gradients are dropped."""
    training = [module for module in model.modules() if module.training]
    asked = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.parameters()}
    model.eval()
    try:
        yield
    finally:
        for parameter, (had, gradient) in asked.items():
            parameter.requires_grad_(had)
            parameter.grad = gradient
        for module in training:
            module.training = True


@contextmanager
def seeded(seed: int, model: nn.Module) -> Iterator[None]:
    """Run the block with Python's, numpy's and torch's generators seeded with `seed`; afterwards restore their
    states."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


class ToLog(io.TextIOBase):
    """A stream to redirect standard output to: it writes to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            log.debug("%s", text.rstrip())
        return len(text)
