"""Where a transformers causal language model keeps what NSE needs, found by structure, never by model name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

EDITABLE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class LayoutError(ValueError):
    """A model, or a layer of it, that cannot be edited; the message says what to do."""


@dataclass(frozen=True)
class OutputMatrix:
    """`W_out` of one layer's MLP: it maps the f neurons to the hidden size d.

    name: the weight's parameter name in the model. module: the Linear or Conv1D that holds it.
    """

    name: str
    module: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        """The parameter itself: [d, f] in a Linear, [f, d] in a Conv1D."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def matrix(self) -> Tensor:
        """The weight's data as [d, f], a view."""
        data = self.weight.data
        return data.T if isinstance(self.module, Conv1D) else data

    def add_columns(self, neurons: Tensor, delta: Tensor) -> None:
        """Add `delta` [d, len(neurons)] to the columns `neurons`, summed in float64, rounded once."""
        matrix = self.matrix
        columns = matrix[:, neurons].to(torch.float64) + delta.to(matrix.device)
        matrix[:, neurons] = columns.to(matrix.dtype)


@dataclass(frozen=True)
class Layout:
    """The parts of a causal language model.

    stack: the module that owns the decoder layers. layers: those layers, in order.
    """

    model: nn.Module
    stack: nn.Module
    layers: nn.ModuleList
    hidden_size: int
    max_positions: int | None
    rewrite_module_tmp: str | None = None

    @classmethod
    def of(cls, model: nn.Module, rewrite_module_tmp: str | None = None) -> Layout:
        """Find the parts of a loaded transformers causal language model.

        rewrite_module_tmp: name of the edited module with `{}` for the layer number, where structure is not enough.
        Raises LayoutError when the model has no decoder layers, or has weights on the meta device.
        """
        if any(parameter.is_meta for parameter in model.parameters()):
            raise LayoutError(
                "The model has weights on the meta device (offloaded or not loaded): load it whole into memory first."
            )
        config: Any = model.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
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
        positions = getattr(text, "max_position_embeddings", None)
        return cls(model, stack, layers, text.hidden_size, positions, rewrite_module_tmp)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the input embeddings."""
        model: Any = self.model
        device: torch.device = model.get_input_embeddings().weight.device
        return device

    def output_matrix(self, layer: int) -> OutputMatrix:
        """`W_out` of a layer.

        Raises LayoutError when the layer does not exist, has none or several candidates, or is quantised.
        """
        if not 0 <= layer < len(self.layers):
            raise LayoutError(
                f"layers = [..., {layer}, ...] is out of range: this model has layers 0 to {len(self.layers) - 1}."
            )
        module = self._named_module(layer) if self.rewrite_module_tmp else self._last_mlp_matrix(layer)
        name = next(n for n, m in self.model.named_modules() if m is module)
        weight: Any = module.weight
        if weight.dtype not in EDITABLE_DTYPES or weight.dim() != 2:
            raise LayoutError(
                f"{name}.weight is {weight.dtype} (quantised): load the model in bfloat16, float16 or float32."
            )
        return OutputMatrix(f"{name}.weight", module)

    def output_matrices(self, layers: Sequence[int]) -> dict[int, OutputMatrix]:
        """`W_out` of several layers, by layer number."""
        return {layer: self.output_matrix(layer) for layer in layers}

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
        return module

    def _last_mlp_matrix(self, layer: int) -> nn.Module:
        """The one matrix outside attention that writes to the residual stream."""
        found = list(_writers(self.layers[layer], self.hidden_size))
        if len(found) != 1:
            what = "no MLP output matrix" if not found else f"{len(found)} matrices that could be W_out"
            raise LayoutError(
                f"Layer {layer} ({type(self.layers[layer]).__name__}) has {what}: name it with "
                "rewrite_module_tmp, e.g. 'model.layers.{}.mlp.down_proj'."
            )
        return found[0]


def is_attention(module: nn.Module) -> bool:
    """By the name of its class, which every architecture gives alike."""
    kind = type(module).__name__.lower()
    return "attention" in kind or "attn" in kind


def _writers(module: nn.Module, hidden_size: int) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        if is_attention(child):
            continue
        if isinstance(child, nn.Linear):
            writes = child.out_features == hidden_size and child.in_features != hidden_size
        elif isinstance(child, Conv1D):
            writes = child.nf == hidden_size and child.nx != hidden_size
        else:
            found += _writers(child, hidden_size)
            continue
        if writes:
            found.append(child)
    return found
