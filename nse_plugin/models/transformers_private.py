"""Every place where this package relies on more than the documented interface of transformers.

Checked with transformers 4.57.6, 5.5.4 and 5.24.0 (torch 2.13.0). When a new release breaks something, look here first:

- `models.attention` temporarily replaces `integrations.sdpa_attention.use_gqa_in_sdpa`. That function takes two
  arguments up to 5.12.1 and three from 5.13.0 on. Without it everything still works, with more memory.
- `cache_argument`, `cache_of`: a forward's cache is called `past_key_values` up to 5.23 and `cache` from 5.24.0 on,
  where the old name warns at every forward and will be removed in 5.40.0.
- `replay.prefix_cache.PrefixCache` is a `DynamicCache` with its own `update`, `get_seq_length` and `get_mask_sizes`
  (whose first argument is a length from 5.x on, and a tensor of positions before).
- `attention_of`: only `_attn_implementation` says which attention a configuration selects, in all three.
- `rope_settings`: a configuration's `rope_parameters` (5.x; `rope_scaling` in 4.57) are one dict, or one per kind of
  layer.
- `Conv1D`, GPT-2's transposed Linear, lives in `pytorch_utils`, `ModelOutput` in `utils.generic`, in all three.
- `moments.npz` reads a configuration's `_name_or_path`, where the model was loaded from, for EasyEdit's files.
- `models.identity` reads the attributes of a module hooked by accelerate (1.x): `_hf_hook` and `_old_forward`.
- `replay` calls decoder layers with the arguments that the model itself gave them, recorded by forward hooks; layers
  return a tensor (5.x) or a tuple that begins with one (4.57).
- `models.embedded` builds its model from the GGUF file by itself: 5.17.0 and later refuse to save one they have read.
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
    """Return whether torch has a CPU kernel for grouped heads under a mask, and transformers a switch to use it."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return version >= (2, 9) and hasattr(sdpa_attention, "use_gqa_in_sdpa")


def cache_argument(model: nn.Module) -> str:
    """Return the name of the argument for the keys and values of earlier tokens in a model's forward.

    It is taken from the outermost forward that has such an argument: wrappers such as PEFT's pass on arguments that
    they do not know.
    """
    for module in model.modules():
        names = inspect.signature(type(module).forward).parameters
        for name in _CACHE_NAMES:
            if name in names:
                return name
    return _CACHE_NAMES[-1]


def cache_of(output: object) -> Any:
    """Return the cache in a model's output, None if there is none. From 5.24.0 on reading its old name warns."""
    return output.cache if hasattr(output, "cache") else getattr(output, "past_key_values", None)


def attention_of(config: object) -> str | None:
    """Return the name of the attention implementation in a configuration, such as "eager" or "sdpa"."""
    name: str | None = getattr(config, "_attn_implementation", None)
    return name


def rope_settings(config: object) -> list[dict[str, Any]]:
    """Return the settings of a model's rotary frequencies, one dict per kind of layer; [{}] if there are none."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [part for part in given.values() if isinstance(part, dict)]
    return nested or [given]
