"""The structure of a model: whether it can be edited at all, and which matrices write to the residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from nse_plugin.hparams.model import text_config
from nse_plugin.models.layout.output_matrix import LayoutError
from nse_plugin.models.transformers_private import Conv1D


def is_attention(module: nn.Module) -> bool:
    """Return whether a module is attention, by its class name, which is similar in all architectures."""
    kind = type(module).__name__.lower()
    return "attention" in kind or "attn" in kind


def mixes_tokens(module: nn.Module) -> bool:
    """Return whether a module lets tokens see earlier ones: attention, or one with a convolution along the tokens, as
    state-space and linear-attention layers have."""
    return is_attention(module) or any(isinstance(child, nn.Conv1d) for child in module.children())


def has_stacked_experts(module: nn.Module, hidden_size: int) -> bool:
    """Return whether a layer keeps the matrices of several experts in one parameter."""
    named = any("expert" in type(part).__name__.lower() for part in module.modules())
    return named or any(p.dim() == 3 and hidden_size in p.shape[1:] for p in module.parameters())


def check_loaded(model: nn.Module) -> None:
    """Raise LayoutError if `model` is not a transformers model, or was loaded in a way that prevents editing."""
    kind = type(model).__name__
    if not hasattr(getattr(model, "config", None), "to_dict") or not hasattr(model, "get_input_embeddings"):
        wrapped = isinstance(getattr(model, "module", None), nn.Module)
        remedy = "give its .module" if wrapped else "give the transformers model itself, not a wrapper around it"
        raise LayoutError(f"{kind} is not a transformers model: {remedy}.")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise LayoutError(
            "The model has weights on the meta device (offloaded or not loaded): load it whole into memory first."
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise LayoutError(
            "The model's weights were made within torch.inference_mode(), so they can never change: load it outside."
        )
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise LayoutError(f"{kind} has an encoder and a decoder: NSE edits decoder-only language models.")
    if getattr(config, "return_dict", True) is False:
        raise LayoutError("The model's config.return_dict is False: set it to True, as transformers has it.")


def decoder_config(model: nn.Module) -> Any:
    """Return the language model's configuration. Raises LayoutError if it lacks num_hidden_layers or hidden_size."""
    config: Any = model.config
    text = text_config(config)
    for name in ("num_hidden_layers", "hidden_size"):
        if not isinstance(getattr(text, name, None), int):
            raise LayoutError(f"{type(model).__name__}'s config has no {name}: give a causal language model.")
    return text


def share_memory(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors (of any shape) share memory."""
    if one is other:
        return True
    plain = type(one.data) is type(other.data) is Tensor and one.device == other.device
    return plain and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def out_features(module: nn.Module) -> int:
    """Return the output size of a Linear or Conv1D."""
    return module.nf if isinstance(module, Conv1D) else module.out_features  # type: ignore[return-value]


def _in_features(module: nn.Module) -> int:
    return module.nx if isinstance(module, Conv1D) else module.in_features  # type: ignore[return-value]


def mlp_writers(module: nn.Module, hidden_size: int) -> list[nn.Module]:
    """Find the matrices within a layer that map another size to the hidden size, outside everything that mixes tokens.

    In a layer that is nothing but a state space (Mamba), they are those of the state space.
    """
    return _writers(module, hidden_size, mixes_tokens) or _writers(module, hidden_size, is_attention)


def _writers(module: nn.Module, hidden_size: int, left_out: Callable[[nn.Module], bool]) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        if left_out(child):
            continue
        if not isinstance(child, nn.Linear | Conv1D):
            found += _writers(child, hidden_size, left_out)
        elif out_features(child) == hidden_size != _in_features(child):
            found.append(child)
    return found
