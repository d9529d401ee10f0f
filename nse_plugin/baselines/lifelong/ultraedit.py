"""UltraEdit from EasyEdit's main."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nse_plugin.baselines.lifelong.memory import Apply, Edited, Request, StatefulMethod, module_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class UltraEdit(StatefulMethod):
    """UltraEdit (Gu et al. 2025, arXiv 2505.14679): one linear solve on normalised keys and gradients, no training.

    The normalisation covers all rounds so far ("lifelong" in the paper); its running statistics are the memory.
    EasyEdit resets them with every call, and keeps using the first model it was given.
    """

    padding_side = "left"  # targets are counted from the right end

    def __init__(self, apply: Apply) -> None:
        super().__init__(apply)
        self._module = module_of(apply)
        self._statistics: dict[str, Tensor] = {}

    def __call__(
        self, model: nn.Module, tok: PreTrainedTokenizerBase, requests: Sequence[Request], hparams: Any, **options: Any
    ) -> Edited:
        size = len(requests)
        settings = replace(
            hparams,
            half=False,  # otherwise the model itself is converted
            inner_params=list(hparams.inner_params),  # a copy, since EasyEdit changes the list in place
            batch_size=size,  # EasyEdit ignores requests beyond it
            batch_size_once=max(once for once in range(1, int(hparams.batch_size_once) + 1) if size % once == 0),
        )
        executor = self._module.UltraEditRewriteExecutor()
        executor.init_model(model, tok, settings)
        executor.is_init = True
        executor.alg.shift = True  # EasyEdit recognises a causal model by words in its name
        normaliser = executor.alg.lifelong_normalizer
        if self._statistics:
            normaliser.load_state_dict(self._statistics)
        edited: Edited = executor.apply_to_model(model, tok, requests, settings, **options)
        self._statistics = {name: tensor.clone() for name, tensor in normaliser.state_dict().items()}
        return edited

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._statistics)

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        self._statistics = dict(tensors)
