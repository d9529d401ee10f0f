"""Drift of the hidden states of known facts: their positions before and after editing.

A state is the output of one decoder layer at the last token of a prompt, where the answer is predicted. The same
prompts are used before and after, so the states are paired.
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
_ROWS = 64  # rows whose distances to all states of the other model are held at a time, to bound memory


def hidden_states(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    layer: int | None = None,
    tokens_per_batch: int = 1024,
) -> Tensor:
    """Return the output of a decoder layer at each prompt's last token: [n, d], on the CPU, in float32 (float64 for a
    float64 model).

    layer: None for the last one, from whose output the final norm and the head compute the answer, so that its states
    show every change that an edit makes to the answer. Rows are padded here; the tokenizer's padding is not used.
    tokens_per_batch bounds rows x longest row of one forward pass.

    Raises ValueError if there are no prompts, a prompt has no tokens or more tokens than the model has positions, or
    the layer does not exist.
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
    """Measure how far the states [n, d] have moved; row i of both belongs to the same prompt. Computed in float64.

    `hidden_mean_shift`: distance between the two means, divided by the mean norm of the states before.
    `hidden_covariance_shift`: Frobenius norm of the difference of the covariances, divided by the Frobenius norm of
    the covariance before.
    `hidden_cosine`: cosine between a prompt's two states, averaged over the prompts; 1 means no change.
    `hidden_hausdorff`: Hausdorff distance between the two sets of states (the largest distance from a state of either
    set to the nearest state of the other), divided by the mean norm of the states before.

    The results are not finite if the states after are not. Raises ValueError if the shapes differ, or if the states
    before are not finite or are all equal.
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
    """The plane of the first two principal components of the unedited model's states, to plot all models on one map.

    center: [d]. directions: [d, 2], orthonormal.

    Save with `safetensors.torch.save_file(vars(plane), path)`, load with `Plane(**load_file(path))`.
    """

    center: Tensor
    directions: Tensor

    @classmethod
    def of(cls, before: Tensor) -> Plane:
        """Fit the plane to the unedited model's states [n, d]. The entry of largest magnitude in each direction is
        positive, so that the same states give the same map. Raises ValueError if the states are not finite or are all
        equal."""
        before = _cloud(before)
        center = before.mean(dim=0)
        _, _, components = torch.linalg.svd(before - center, full_matrices=False)
        directions = components[:2].T
        largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
        return cls(center, (directions * largest.sign()).contiguous())

    def points(self, states: Tensor) -> Tensor:
        """Project states [n, d] onto the plane: [n, 2], in the units of the states."""
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
    """Return the Hausdorff distance between states [n, d] and [m, d]; NaN if a state is NaN (scipy's
    directed_hausdorff ignores such states)."""
    from_other = torch.full((len(other),), torch.inf, dtype=one.dtype)
    from_one = []
    for first in range(0, len(one), _ROWS):
        # computed from differences: with a matrix product, the distance between equal states would not be exactly 0
        distances = torch.cdist(one[first : first + _ROWS], other, compute_mode="donot_use_mm_for_euclid_dist")
        from_one.append(distances.amin(dim=1))
        from_other = torch.minimum(from_other, distances.amin(dim=0))
    return torch.cat([*from_one, from_other]).amax()
