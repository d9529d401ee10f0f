"""Propose hyperparameters for a model that nobody tuned, from its shape and the norms of its hidden states.

docs/presets.md compares the rules with the published and tuned values (`python -m benchmarks.presets`).
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.hparams.model import text_config
from nse_plugin.hparams.settings import PROPOSED, NSEHyperParams

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

Given = TypeVar("Given", bound=NSEHyperParams)

START = 1 / 8  # the first edited layer, as a share of the depth
WIDE = 32  # models with at least this many layers are edited in five of them, others in three
ALPHA = 0.1  # as a share of the norm of the hidden states at l_0
CLAMPED_AFTER = 8  # steps of Adam in which v_lr moves delta to the bound of `clamp_norm_factor`
TOKENS_PER_NEURON, TOKENS_PER_PASSAGE = 10, 128  # of the text for the second moments
_ROWS, _TOKENS, _FIRST = 4, 32, 8  # random rows for the norms, measured from token `_FIRST` on, past attention sinks
_NEURONS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")  # their names in configurations


def width(layers: int) -> int:
    """Return how many layers to edit in a model with `layers` layers."""
    return 5 if layers >= WIDE else 3


def proposed_layers(layers: int) -> list[int]:
    """Return consecutive layers to edit, from an eighth of the depth. Raises HyperParamsError for fewer than 2."""
    if layers < 2:
        raise HyperParamsError(f"No layers can be proposed: the model has {layers}, and NSE needs one above l_0.")
    last = min(round(START * layers) + width(layers) - 1, layers - 2)
    return list(range(max(0, last - width(layers) + 1), last + 1))


def proposed_alpha(norm: float) -> float:
    """Return alpha for a norm of the hidden states at l_0."""
    return rounded(ALPHA * norm)


def proposed_rate(norm: float, hidden_size: int, clamp_norm_factor: float) -> float:
    """Return the v_lr that moves delta to its bound in `CLAMPED_AFTER` steps: Adam moves every coordinate by v_lr."""
    return rounded(clamp_norm_factor * norm / (CLAMPED_AFTER * math.sqrt(hidden_size)))


def proposed_by_shape(layers: int, neurons: int) -> dict[str, Any]:
    """Return what the shape of a model decides. neurons: f, of one MLP.

    lambda weighs the preserved knowledge, a mean over keys, as that many keys: one for each neuron.
    """
    passages = math.ceil(TOKENS_PER_NEURON * neurons / TOKENS_PER_PASSAGE)
    return {
        "layers": proposed_layers(layers),
        "mom2_update_weight": float(neurons),
        "mom2_dataset": "self",
        "mom2_n_samples": passages,
    }


def proposed(model: nn.Module) -> dict[str, Any]:
    """Return hyperparameters for a loaded model, without alpha and v_lr, which depend on the layers that are used.

    Raises HyperParamsError for a model without layers.
    """
    config = text_config(model.config)
    sizes = (getattr(config, name, None) for name in _NEURONS)
    neurons = next((size for size in sizes if isinstance(size, int)), 4 * config.hidden_size)
    return proposed_by_shape(config.num_hidden_layers, neurons)


def proposed_by_norm(model: nn.Module, layer: int, clamp_norm_factor: float) -> dict[str, float]:
    """Return alpha and v_lr for a loaded model whose last edited layer, l_0, is `layer`.

    Raises HyperParamsError if the model does not return its hidden states.
    """
    norm = hidden_norm(model, layer)
    rate = proposed_rate(norm, text_config(model.config).hidden_size, clamp_norm_factor)
    return {"alpha": proposed_alpha(norm), "v_lr": rate}


def proposed_for(model: nn.Module, given: Mapping[str, Any]) -> NSEHyperParams:
    """Return the hyperparameters of a loaded model that nobody tuned. given: fields that are not proposed."""
    by_shape = {name: value for name, value in proposed(model).items() if name not in given}
    return completed(NSEHyperParams(**{"alpha": None, "v_lr": None, **by_shape, **given}), model, by_shape)


def completed(hparams: Given, model: nn.Module, by_shape: Mapping[str, Any] | None = None) -> Given:
    """Return hyperparameters with alpha and v_lr, where they are None, proposed; log in one line what was proposed.
    by_shape: other fields that were."""
    missing = [name for name in PROPOSED if getattr(hparams, name) is None]
    by_norm: dict[str, Any] = {}
    if missing:
        found = proposed_by_norm(model, hparams.layers[-1], hparams.clamp_norm_factor)
        by_norm = {name: found[name] for name in missing}
    origins = {"the model's shape": by_shape, "the norm of random tokens' hidden states at l_0": by_norm}
    parts = [
        f"{', '.join(f'{name} = {value}' for name, value in fields.items())} (from {origin})"
        for origin, fields in origins.items()
        if fields
    ]
    if parts:
        log.warning("proposed, not tuned: %s; `nse tune` finds better ones.", ", ".join(parts))
    return dataclasses.replace(hparams, **by_norm) if by_norm else hparams


def hidden_norm(model: Any, layer: int) -> float:
    """Return the median norm of a layer's output over random tokens. Raises HyperParamsError."""
    import torch

    from nse_plugin.support.restoring import restoring

    embeddings = model.get_input_embeddings().weight
    ids = torch.randint(len(embeddings), (_ROWS, _TOKENS), generator=torch.Generator().manual_seed(0))
    training = [module for module in model.modules() if module.training]

    def put_back() -> None:
        for module in training:
            module.training = True

    with restoring(put_back), torch.no_grad():
        model.eval()
        states = model(input_ids=ids.to(embeddings.device), use_cache=False, output_hidden_states=True).hidden_states
    if states is None or layer + 1 >= len(states):
        raise HyperParamsError(
            f"alpha = None cannot be proposed: {type(model).__name__} does not return layer {layer}."
        )
    norms: list[float] = states[layer + 1][:, _FIRST:].double().norm(dim=-1).flatten().tolist()
    return statistics.median(norms)


def rounded(value: float) -> float:
    """Round to two digits."""
    return float(f"{value:.2g}")
