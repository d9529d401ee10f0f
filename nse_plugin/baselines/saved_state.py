"""What is saved of an algorithm between rounds: weights that changed, facts, tensors by prefix."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nse_plugin.facts import Fact
from nse_plugin.models.identity import fingerprint


def weight_fingerprints(model: nn.Module) -> dict[str, str]:
    """A hash of every parameter, by name."""
    return {name: fingerprint(parameter) for name, parameter in model.named_parameters()}


def facts_as_tensor(facts: Sequence[Fact]) -> Tensor:
    """Facts as a file of tensors can hold them: the bytes of their JSON, uint8 [bytes]."""
    text = json.dumps([dataclasses.asdict(fact) for fact in facts])
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def facts_of_tensor(tensor: Tensor) -> list[Fact]:
    """Inverse of `facts_as_tensor`, uint8 [bytes]."""
    records = json.loads(bytes(tensor.tolist()) or b"[]")
    return [Fact(**record) for record in records]


def under_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors (of any shape) whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
