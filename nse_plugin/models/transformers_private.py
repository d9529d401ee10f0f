"""Every place where this package relies on more than the documented interface of transformers.

Checked with transformers 4.57.6, 5.5.4 and 5.24.0 (torch 2.13.0). When a new release breaks something, look here first:

- `models.attention` replaces `integrations.sdpa_attention.use_gqa_in_sdpa` for a while. That function takes two
  arguments up to 5.12.1 and three from 5.13.0 on. Without it everything still works, with more memory.
- `cache_argument`, `cache_of`: a forward's cache is called `past_key_values` up to 5.23 and `cache` from 5.24.0 on,
  where the old name warns at every forward and is to go in 5.40.0.
- `replay.prefix_cache.PrefixCache` is a `DynamicCache` with its own `update`, `get_seq_length` and `get_mask_sizes`
  (whose first argument is a length from 5.x on, and a tensor of positions before).
- `attention_of`: which attention a configuration asks for is in its `_attn_implementation` alone, in all three.
- `rope_settings`: a configuration's `rope_parameters` (5.x; `rope_scaling` in 4.57) are a dict, or one for each kind of
  layer.
- `Conv1D`, GPT-2's transposed Linear, lives in `pytorch_utils`, `ModelOutput` in `utils.generic`, in all three.
- `moments.npz` reads where a model was loaded from in its configuration's `_name_or_path`, for EasyEdit's files.
- `models.identity` reads what accelerate (1.x) keeps at a module that it hooks: `_hf_hook` and `_old_forward`.
- `replay` calls decoder layers with what the model itself gave them, recorded by forward hooks; layers return a
  tensor (5.x) or a tuple that begins with one (4.57).
- `models.embedded` copies a model read from a GGUF file into a new one: 5.17.0 and later refuse to save the first.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.integrations import sdpa_attention
from transformers.pytorch_utils import Conv1D
from transformers.utils.generic import ModelOutput

__all__ = [
    "Conv1D",
    "DynamicCache",
    "ModelOutput",
    "attention_of",
    "cache_argument",
    "cache_of",
    "native_grouped_queries_are_fast",
    "rope_settings",
    "sdpa_attention",
]

_CACHE_NAMES = ("cache", "past_key_values")


def native_grouped_queries_are_fast() -> bool:
    """Whether torch has a CPU kernel that takes shared heads under a mask, and transformers a switch to ask for it."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return version >= (2, 9) and hasattr(sdpa_attention, "use_gqa_in_sdpa")


def cache_argument(model: nn.Module) -> str:
    """The name under which a model's forward takes the keys and values of earlier tokens.

    Read from the outermost forward that names it: wrappers such as PEFT's pass on what they do not know.
    """
    for module in model.modules():
        names = inspect.signature(type(module).forward).parameters
        for name in _CACHE_NAMES:
            if name in names:
                return name
    return _CACHE_NAMES[-1]


def cache_of(output: object) -> Any:
    """The cache in a model's output, None where it has none; from 5.24.0 on its old name is there too, and warns."""
    return output.cache if hasattr(output, "cache") else getattr(output, "past_key_values", None)


def attention_of(config: object) -> str | None:
    """The name of the attention a model computes with, "eager" or "sdpa" for example."""
    name: str | None = getattr(config, "_attn_implementation", None)
    return name


def rope_settings(config: object) -> list[dict[str, Any]]:
    """How a model's rotary frequencies are made: a dict, or one for each kind of layer; none for other positions."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [part for part in given.values() if isinstance(part, dict)]
    return nested or [given]
