"""Attention with fewer keys than queries, without a copy of them for every head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers.integrations import sdpa_attention
from transformers.utils.import_utils import is_torch_greater_or_equal


@contextmanager
def shared_heads() -> Iterator[None]:
    """Within, heads that share keys and values read them where they are, also under a mask.

    transformers copies them for each head and keeps the copies for the backward pass, where there is a mask: on a GPU
    only slow kernels know both. On a CPU the fast one does (from torch 2.9 on), with the same result; elsewhere nothing
    changes here. It is for the whole process: of two threads the last to leave may leave it on.
    """
    own = sdpa_attention.use_gqa_in_sdpa
    fast = is_torch_greater_or_equal("2.9")

    def shared(attention_mask: Tensor | None, key: Tensor) -> bool:
        return (fast and key.device.type == "cpu") or own(attention_mask, key)

    sdpa_attention.use_gqa_in_sdpa = shared
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = own
