"""Find the parts of a transformers causal language model that NSE needs, by structure and never by model name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.models.inputs import input_device
from nse_plugin.models.layout.batched_arguments import BatchedArguments
from nse_plugin.models.layout.output_matrix import EDITABLE_DTYPES, LayoutError, OutputMatrix
from nse_plugin.models.layout.structure import (
    check_loaded,
    decoder_config,
    has_stacked_experts,
    is_attention,
    mlp_writers,
    out_features,
    share_memory,
)
from nse_plugin.models.positions import max_positions
from nse_plugin.models.transformers_private import Conv1D


@dataclass
class ReplayState:
    """What was found out about a model's layers by running them.

    whole_rows: whether every row is run whole, because the layers give other outputs after a cached prefix. batched:
    which of the layers' arguments are batched; empty until determined. checked: by edited layers (the last one is l_0),
    the number of tokens up to which the model was checked to be replayable (`replay.check`). outputs: by name of the
    edited matrix, what its layer does to its output (`replay.outputs`), once that was found.
    """

    whole_rows: bool = False
    batched: BatchedArguments = field(default_factory=BatchedArguments)
    checked: dict[tuple[int, ...], int] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The parts of a causal language model.

    stack: the module that owns the decoder layers. layers: those layers, in order. max_positions: None if the model has
    no limit. replay: what is known of the layers from running them; empty at first.
    """

    model: nn.Module
    stack: nn.Module
    layers: nn.ModuleList
    hidden_size: int
    max_positions: int | None
    rewrite_module_tmp: str | None = None
    replay: ReplayState = field(default_factory=ReplayState, repr=False, compare=False)

    @classmethod
    def of(cls, model: nn.Module, rewrite_module_tmp: str | None = None) -> Layout:
        """Find the parts of a loaded transformers causal language model.

        rewrite_module_tmp: name of the edited module with `{}` for the layer number, if it cannot be found by
        structure.
        Raises LayoutError if it is no such model, has no decoder layers, or cannot be edited as it was loaded.
        """
        check_loaded(model)
        text = decoder_config(model)
        count = text.num_hidden_layers
        stacks = [
            (module, child)
            for module in model.modules()
            for child in module.children()
            if isinstance(child, nn.ModuleList) and len(child) == count
        ]
        if not stacks:
            raise LayoutError(
                f"{type(model).__name__} has no list of {count} decoder layers: give a causal language model."
            )
        stack, layers = max(stacks, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
        if len({id(layer) for layer in layers}) < len(layers):
            raise LayoutError(
                f"{type(model).__name__} runs one layer in several places: give each place a layer of its own "
                "(copy.deepcopy) before editing."
            )
        return cls(model, stack, layers, text.hidden_size, max_positions(text), rewrite_module_tmp)

    @property
    def device(self) -> torch.device:
        """The device for token ids: that of the input embeddings."""
        return input_device(self.model)

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the model has embeddings for."""
        model: Any = self.model
        return int(model.get_input_embeddings().weight.shape[0])

    def checked_up_to(self, layers: Sequence[int]) -> int:
        """Return up to how many tokens the model was checked to be replayable for these layers, the last one l_0."""
        known = (n for own, n in self.replay.checked.items() if own[-1] == layers[-1] and set(layers) <= set(own))
        return max(known, default=0)

    def output_matrix(self, layer: int) -> OutputMatrix:
        """Return `W_out` of a layer.

        Raises LayoutError if the layer does not exist, has no candidate or several, or stores it in another form than a
        plain matrix.
        """
        if not 0 <= layer < len(self.layers):
            raise LayoutError(
                f"layers = [..., {layer}, ...] is out of range: this model has layers 0 to {len(self.layers) - 1}."
            )
        module = self._named_module(layer) if self.rewrite_module_tmp else self._last_mlp_matrix(layer)
        name = self._name_of(module)
        weight: Any = module.weight
        if not isinstance(weight, nn.Parameter):
            raise LayoutError(
                f"{name}.weight is computed from other parameters (a parametrization such as weight_norm): fold it "
                "into the weight first, with torch.nn.utils.parametrize.remove_parametrizations."
            )
        if type(weight.data) is not Tensor:
            raise LayoutError(
                f"{name}.weight is a {type(weight.data).__name__} (quantised or distributed), not a plain matrix: load "
                "the model in bfloat16, float16 or float32."
            )
        if weight.dtype not in EDITABLE_DTYPES or weight.dim() != 2:
            raise LayoutError(
                f"{name}.weight is {weight.dtype} (quantised): load the model in bfloat16, float16 or float32."
            )
        return OutputMatrix(f"{name}.weight", module)

    def output_matrices(self, layers: Sequence[int]) -> dict[int, OutputMatrix]:
        """Return `W_out` of several layers, by layer number."""
        return {layer: self.output_matrix(layer) for layer in layers}

    def edited_matrices(self, layers: Sequence[int]) -> dict[int, OutputMatrix]:
        """Return `W_out` of the layers to be edited, ascending.

        Raises LayoutError also if the last of them is the model's last layer, because z then has no layer to act
        through, or if a lower layer uses the same weights, because an update would change that layer too.
        """
        matrices = self.output_matrices(layers)
        if layers[-1] == len(self.layers) - 1:
            raise LayoutError(
                f"layers = {list(layers)} ends with the model's last layer: what is written there cannot reach later "
                f"tokens, so end at layer {len(self.layers) - 2} or below."
            )
        for layer, matrix in matrices.items():
            for lower in range(layer):
                if any(share_memory(parameter, matrix.weight) for parameter in self.layers[lower].parameters()):
                    raise LayoutError(
                        f"Layers {lower} and {layer} share {matrix.name}: an edit of one would change the other. Give "
                        "each a matrix of its own, or edit other layers."
                    )
        return matrices

    def _name_of(self, module: nn.Module) -> str:
        found: str = next(name for name, one in self.model.named_modules() if one is module)
        return found

    def _named_module(self, layer: int) -> nn.Module:
        assert self.rewrite_module_tmp is not None
        name = self.rewrite_module_tmp.replace("{}", str(layer))
        try:
            module = self.model.get_submodule(name)
        except AttributeError:
            raise LayoutError(
                f"rewrite_module_tmp = {self.rewrite_module_tmp!r}: this model has no module {name!r}; leave it out to "
                "have the matrix found by structure."
            ) from None
        if not isinstance(module, nn.Linear | Conv1D):
            raise LayoutError(f"rewrite_module_tmp names {name!r}, a {type(module).__name__}: name a Linear or Conv1D.")
        self._check_writer(layer, name, module)
        return module

    def _check_writer(self, layer: int, name: str, module: nn.Module) -> None:
        """Raise LayoutError unless a named module may be the matrix by which an MLP writes to the residual stream."""
        advice = "name the matrix that maps an MLP's neurons to the hidden size, e.g. 'model.layers.{}.mlp.down_proj'."
        inner = list(self.layers[layer].modules())[1:]
        owners = [one for one in inner if any(part is module for part in one.modules())]
        if not owners:
            raise LayoutError(f"rewrite_module_tmp names {name!r}, which is not a part of layer {layer}: {advice}")
        if any(is_attention(owner) for owner in owners):
            raise LayoutError(f"rewrite_module_tmp names {name!r}, a part of attention: {advice}")
        given = out_features(module)
        if given != self.hidden_size:
            raise LayoutError(
                f"rewrite_module_tmp names {name!r}, which gives {given} numbers where the hidden size is "
                f"{self.hidden_size}: {advice}"
            )

    def _last_mlp_matrix(self, layer: int) -> nn.Module:
        """Return the only matrix outside attention that writes to the residual stream."""
        found = list(mlp_writers(self.layers[layer], self.hidden_size))
        if len(found) == 1:
            return found[0]
        what = f"Layer {layer} ({type(self.layers[layer]).__name__})"
        if not found:
            if has_stacked_experts(self.layers[layer], self.hidden_size):
                raise LayoutError(
                    f"{what} keeps its experts in one stacked tensor and has no MLP that every token passes: NSE "
                    "cannot edit it; choose layers with a dense MLP or a shared expert, if the model has them."
                )
            raise LayoutError(
                f"{what} has no MLP output matrix: name it with rewrite_module_tmp, e.g. "
                "'model.layers.{}.mlp.down_proj'."
            )
        names = [self._name_of(module).replace(f".{layer}.", ".{}.", 1) for module in found]
        adapters = " Of a model with an adapter on this matrix, base_layer is the model's own." * any(
            "base_layer" in name for name in names
        )
        raise LayoutError(
            f"{what} has {len(found)} matrices that could be W_out: name one with rewrite_module_tmp, one of "
            f"{', '.join(names[:4])}.{adapters}"
        )
