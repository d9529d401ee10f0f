"""Check that second moments are usable: of the right shape, finite, and from enough tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.moments.measure import TOKENS_PER_NEURON, MomentsError, MomentSums
from nse_plugin.moments.storage import Stored

log = logging.getLogger(__name__)


def check_moments(moments: Mapping[int, Tensor], matrices: Mapping[int, OutputMatrix]) -> dict[int, Tensor]:
    """Return the moments of the layers in `matrices`. Raises MomentsError unless each is a finite tensor [f, f]."""
    for layer, matrix in matrices.items():
        if layer not in moments:
            raise MomentsError(
                f"moments has no entry for layer {layer}: measure it with `nse moments`, or pass moments=None."
            )
        if not isinstance(moments[layer], Tensor):
            raise MomentsError(f"moments[{layer}] is a {type(moments[layer]).__name__}: give a tensor [f, f].")
        size = matrix.matrix.shape[1]
        if tuple(moments[layer].shape) != (size, size):
            raise MomentsError(
                f"moments[{layer}] has shape {tuple(moments[layer].shape)}, and this layer needs {(size, size)}: "
                "they were measured on another model; measure them on this one."
            )
        if not bool(torch.isfinite(moments[layer]).all()):
            raise MomentsError(f"moments[{layer}] holds NaN or infinite numbers: measure it again in float32.")
    return {layer: moments[layer] for layer in matrices}


def check_finite(layout: Layout, sums: MomentSums) -> None:
    """Raise MomentsError if the sums are not finite, so that a model with invalid activations is rejected early."""
    for layer, total in sums.sums.items():
        if not bool(total.isfinite().all()):
            dtype = str(layout.output_matrix(layer).weight.dtype).removeprefix("torch.")
            raise MomentsError(
                f"What layer {layer}'s MLP writes from is NaN or infinite in the model's own pass: its weights hold "
                f"such numbers, or {dtype} is too narrow for it; load it from sound files, in float32 or bfloat16."
            )


def warn_if_few(stored: Iterable[Stored]) -> None:
    """Log a warning if second moments were measured from too few tokens."""
    for moment, tokens in stored:
        if tokens < TOKENS_PER_NEURON * len(moment):
            log.warning(
                "Second moments from %d tokens for %d neurons a layer: fewer than %d tokens a neuron are a poor "
                "estimate; raise mom2_n_samples.", tokens, len(moment), TOKENS_PER_NEURON,
            )  # fmt: skip
            return
