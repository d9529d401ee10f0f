"""AlphaEdit from EasyEdit's main."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nse_plugin.baselines.lifelong.memory import Apply, Edited, Request, StatefulMethod, lent_globals, module_of
from nse_plugin.hparams import HyperParamsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class AlphaEdit(StatefulMethod):
    """AlphaEdit (Fang et al. 2024, arXiv 2410.02355): the update is projected onto the null space of C0.

    For each layer, P projects onto the eigenvectors of C0 whose eigenvalues are below `nullspace_threshold`. P is
    computed from the second moments; the memory is K_p K_p^T, from the keys of earlier rounds, [layers, f, f].

    EasyEdit would read P from a file, or write one into the working folder for every later model to read. It allocates
    K_p K_p^T by words in the model's name, and GPT-J's are not among them.
    """

    def __init__(self, apply: Apply) -> None:
        super().__init__(apply)
        self._module = module_of(apply)
        self._projections: Tensor | None = None
        self._earlier: Tensor | None = None

    def __call__(
        self, model: nn.Module, tok: PreTrainedTokenizerBase, requests: Sequence[Request], hparams: Any, **options: Any
    ) -> Edited:
        if self._projections is None:
            self._projections = torch.stack([self._projection(model, tok, layer, hparams) for layer in hparams.layers])
        if self._earlier is None:
            self._earlier = torch.zeros_like(self._projections)
        ours = {"P": self._projections, "P_loaded": True, "cache_c": self._earlier, "cache_c_new": True}
        with lent_globals(self._module, ours):
            # EasyEdit checks for P's file even if P is already loaded
            edited: Edited = self._apply(model, tok, requests, replace(hparams, P_loc=os.curdir), **options)
        return edited

    def _projection(self, model: nn.Module, tok: PreTrainedTokenizerBase, layer: int, hparams: Any) -> Tensor:
        projection: Tensor = self._module.get_project(model, tok, layer, hparams)
        if not projection.any():
            raise HyperParamsError(
                f"nullspace_threshold = {hparams.nullspace_threshold!r} is below every eigenvalue of layer {layer}'s "
                "second moment: nothing could be written there, so raise it."
            )
        return projection

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._earlier is None else {"earlier": self._earlier.clone()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        if "earlier" in tensors:
            self._earlier = tensors["earlier"].cpu().clone()
