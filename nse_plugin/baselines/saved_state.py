"""The saved state of an algorithm between rounds: changed weights, facts, and tensors with prefixed names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.baselines import grace
from nse_plugin.baselines.lifelong.memory import StatefulMethod
from nse_plugin.easyedit.algorithm import ALG_NAME as NSE
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.facts import Fact
from nse_plugin.models.identity import fingerprint

WEIGHTS_ALONE = ("FT", "ROME", "MEMIT", "MEND")  # these keep nothing but the weights from round to round


def weight_fingerprints(model: nn.Module) -> dict[str, str]:
    """A hash of every parameter, by name."""
    return {name: fingerprint(parameter) for name, parameter in model.named_parameters()}


def facts_as_tensor(facts: Sequence[Fact]) -> Tensor:
    """Encode facts so that a file of tensors can hold them: the bytes of their JSON, uint8 [bytes]."""
    text = json.dumps([dataclasses.asdict(fact) for fact in facts])
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def facts_of_tensor(tensor: Tensor) -> list[Fact]:
    """Inverse of `facts_as_tensor`, uint8 [bytes]."""
    records = json.loads(bytes(tensor.tolist()) or b"[]")
    return [Fact(**record) for record in records]


def under_prefix(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors (of any shape) whose names begin with `prefix`, by names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def prefix_of(alg_name: str) -> str:
    """Return the prefix of the names of an algorithm's own tensors."""
    return f"{alg_name.lower()}."


def own_state(alg_name: str, apply: Callable[..., Any], model: nn.Module) -> dict[str, Tensor] | None:
    """Return what an algorithm keeps between rounds besides the weights: tensors of any shape, by prefixed names.

    apply: the function or object that runs the algorithm. model: the model that it edited. Returns None if the
    algorithm has state that cannot be saved.
    """
    if alg_name in WEIGHTS_ALONE:
        return {}
    tensors: Mapping[str, Tensor] | None = None
    if alg_name == NSE:
        state = nse.state_of(model)
        if state is None:
            return {}
        masters = {f"masters.{layer}": copy for layer, copy in (state.history.masters or {}).items()}
        tensors = {**state.knowledge.tensors(), **masters, "facts": facts_as_tensor(state.history.written)}
    elif apply is grace.apply_grace_to_model:
        codebook = grace.codebook_of(model)
        tensors = {} if codebook is None else codebook.tensors()
    elif isinstance(apply, StatefulMethod):
        tensors = apply.tensors()
    return None if tensors is None else {f"{prefix_of(alg_name)}{name}": copy.clone() for name, copy in tensors.items()}
