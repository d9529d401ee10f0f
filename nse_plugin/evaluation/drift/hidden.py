"""Drift of the hidden states: where known facts lie inside the model, before and after editing.

A state is the output of one decoder layer at the last token of a prompt, where the answer is about to be predicted. The
same prompts are asked before and after, so the states come in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from nse_plugin.models.batching import batches_by_length, padding_is_safe
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.positions import check_room
from nse_plugin.models.prompts import pad_right, without_end
from nse_plugin.support.forward import hooked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS = ("hidden_mean_shift", "hidden_covariance_shift", "hidden_cosine", "hidden_hausdorff")
_ROWS = 64  # rows whose distances to all others are held at a time, to bound memory


def hidden_states(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    layer: int | None = None,
    tokens_per_batch: int = 1024,
) -> Tensor:
    """The output of a decoder layer at each prompt's last token: [n, d], on the CPU, float32 (float64 of such a model).

    layer: None for the last one, whose output the final norm and the head turn into the answer: nothing an edit does
    to the answer can pass it by. Rows are padded by hand, so the tokenizer's padding plays no part. tokens_per_batch
    bounds rows x longest row of one forward pass.

    Raises ValueError when there are no prompts, a prompt has no token or more tokens than the model has positions, or
    there is no such layer.
    """
    layout = Layout.of(model)
    layer = len(layout.layers) - 1 if layer is None else layer
    if not 0 <= layer < len(layout.layers):
        raise ValueError(f"layer = {layer} is out of range: this model has layers 0 to {len(layout.layers) - 1}.")
    rows = _encoded(tokenizer, prompts, layout.max_positions)
    parts: list[Tensor] = []
    last: Tensor

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        states: Tensor = output[0] if isinstance(output, tuple) else output  # depends on model and version
        chosen = states[torch.arange(len(last), device=states.device), last.to(states.device)]
        parts.append(chosen.to("cpu", torch.promote_types(chosen.dtype, torch.float32)))

    lengths = [len(row) for row in rows]
    order = batches_by_length(lengths, tokens_per_batch, padding_is_safe(model, max(lengths)))
    with hooked(layout.layers[layer].register_forward_hook(keep)), frozen(model), torch.no_grad():
        for chosen in order:
            ids, mask = pad_right([rows[i] for i in chosen], layout.device)
            last = mask.sum(dim=1) - 1
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    return torch.cat(parts)[torch.tensor([i for chosen in order for i in chosen]).argsort()]


def _encoded(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_positions: int | None) -> list[list[int]]:
    if not prompts:
        raise ValueError("prompts is empty: give some prompts of facts the model knows.")
    rows = [without_end(tokenizer, prompt.rstrip(" ")) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise ValueError(f"prompt {prompt!r} has no tokens: leave it out.")
        check_room(prompt, len(row), "", max_positions)
    return rows


def hidden_drift(before: Tensor, after: Tensor) -> dict[str, float]:
    """How far the states [n, d] have moved; row i of both is of the same prompt. Computed in float64.

    `hidden_mean_shift`: the distance of the two means over the mean norm of a state before.
    `hidden_covariance_shift`: Frobenius norm of the covariances' difference over that of the covariance before.
    `hidden_cosine`: cosine of a prompt's two states, mean over the prompts; 1 is no change.
    `hidden_hausdorff`: the farthest that a state of one cloud is from the nearest of the other, whichever way is
    farther, over the mean norm of a state before.

    Not finite where the states after are not. Raises ValueError when the shapes differ, or the states before are not
    finite or all alike.
    """
    before, after = _cloud(before), after.double()
    if before.shape != after.shape:
        raise ValueError(
            f"after has shape {tuple(after.shape)} and before {tuple(before.shape)}: take both of the same prompts, "
            "layer and model."
        )
    norm = before.norm(dim=1).mean()
    covariance = _covariance(before)
    found = {
        "hidden_mean_shift": (after.mean(dim=0) - before.mean(dim=0)).norm() / norm,
        "hidden_covariance_shift": (_covariance(after) - covariance).norm() / covariance.norm(),
        "hidden_cosine": cosine_similarity(before, after, dim=1).mean(),
        "hidden_hausdorff": _hausdorff(before, after) / norm,
    }
    return {name: float(value) for name, value in found.items()}


@dataclass(frozen=True)
class Plane:
    """The first two principal components of the unedited model's states: one map on which all models are shown.

    center: [d]. directions: [d, 2], orthonormal.

    `safetensors.torch.save_file(vars(plane), path)` keeps it, `Plane(**load_file(path))` reads it.
    """

    center: Tensor
    directions: Tensor

    @classmethod
    def of(cls, before: Tensor) -> Plane:
        """Of the unedited model's states [n, d]. Each direction's largest entry is positive, so that the same states
        give the same map. Raises ValueError when they are not finite or all alike."""
        before = _cloud(before)
        center = before.mean(dim=0)
        _, _, components = torch.linalg.svd(before - center, full_matrices=False)
        directions = components[:2].T
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        return cls(center, (directions * largest.sign()).contiguous())

    def points(self, states: Tensor) -> Tensor:
        """Where states [n, d] lie on the map: [n, 2], in the states' own units."""
        return (states.double() - self.center) @ self.directions


def _cloud(before: Tensor) -> Tensor:
    before = before.double()
    if not before.isfinite().all() or (before == before[:1]).all():
        raise ValueError(
            "before cannot be compared with, its states are not finite or all alike: take those of the unedited model "
            "at two or more different prompts."
        )
    return before


def _covariance(states: Tensor) -> Tensor:
    return torch.cov(states.T, correction=0)


def _hausdorff(one: Tensor, other: Tensor) -> Tensor:
    """The largest distance of a state from the nearest of the other cloud, both ways; NaN of states that are (scipy's
    directed_hausdorff passes over them)."""
    from_other = torch.full((len(other),), torch.inf, dtype=one.dtype)
    from_one = []
    for first in range(0, len(one), _ROWS):
        # by differences: as a product of matrices, equal states would not be at distance 0
        distances = torch.cdist(one[first : first + _ROWS], other, compute_mode="donot_use_mm_for_euclid_dist")
        from_one.append(distances.amin(dim=1))
        from_other = torch.minimum(from_other, distances.amin(dim=0))
    return torch.cat([*from_one, from_other]).amax()
