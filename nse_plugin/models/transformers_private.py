"""Every place where this package relies on more than the documented interface of transformers.

Checked with transformers 4.57.6, 5.5.4 and 5.24.0 (torch 2.13.0). When a new release breaks something, look here first:

- `native_grouped_queries` replaces `integrations.sdpa_attention.use_gqa_in_sdpa` for a while. That function takes two
  arguments up to 5.12.1 and three from 5.13.0 on. Without it everything still works, with more memory.
- `cache_argument`, `cache_of`: a forward's cache is called `past_key_values` up to 5.23 and `cache` from 5.24.0 on,
  where the old name warns at every forward and is to go in 5.40.0.
- `PrefixCache` in `models.past` is a `DynamicCache` with its own `update`, `get_seq_length` and `get_mask_sizes` (whose
  first argument is a length from 5.x on, and a tensor of positions before).
- `Conv1D`, GPT-2's transposed Linear, lives in `pytorch_utils`, `ModelOutput` in `utils`, in all three.
- Decoder layers are called with what the model itself gave them, recorded by forward hooks; they return a tensor (5.x)
  or a tuple that begins with one (4.57). `replay.batched` finds out which of their arguments are batched.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.integrations import sdpa_attention
from transformers.pytorch_utils import Conv1D
from transformers.utils.generic import ModelOutput
from transformers.utils.import_utils import is_torch_greater_or_equal

__all__ = ["Conv1D", "DynamicCache", "ModelOutput", "cache_argument", "cache_of", "native_grouped_queries"]

_CACHE_NAMES = ("cache", "past_key_values")
_replacing = threading.Lock()


@contextmanager
def native_grouped_queries() -> Iterator[None]:
    """Within, attention with fewer key heads than query heads reads the keys where they are, also under a mask.

    With a mask, transformers copies keys and values for every query head and keeps the copies for the backward pass,
    because on a GPU only slow kernels take both. On a CPU the fast kernel takes both (from torch 2.9 on), with the same
    result; elsewhere nothing changes. The switch is global, so one thread at a time uses it, and others skip it.
    """
    if not (hasattr(sdpa_attention, "use_gqa_in_sdpa") and is_torch_greater_or_equal("2.9")):
        yield
        return
    if not _replacing.acquire(blocking=False):
        yield
        return
    own = sdpa_attention.use_gqa_in_sdpa

    def on_the_cpu_always(attention_mask: Tensor | None, key: Tensor, *others: Tensor) -> bool:
        return key.device.type == "cpu" or own(attention_mask, key, *others)

    sdpa_attention.use_gqa_in_sdpa = on_the_cpu_always
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = own
        _replacing.release()


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


def cache_of(output: ModelOutput) -> Any:
    """The cache in a model's output."""
    fields = {field.name for field in dataclasses.fields(output)}  # type: ignore[arg-type]
    return getattr(output, next(name for name in _CACHE_NAMES if name in fields))
