"""Attention with fewer key heads than query heads, without a copy of keys and values for every query head."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from nse_plugin.models.transformers_private import native_grouped_queries_are_fast, sdpa_attention

_replacing = threading.Lock()


@contextmanager
def native_grouped_query_attention() -> Iterator[None]:
    """Run the block with CPU attention that does not copy keys and values shared by several heads, even under a mask.

    With a mask, transformers copies them for every query head and keeps the copies for the backward pass, because on a
    GPU only slow kernels support both grouped heads and a mask. On a CPU the fast kernel supports both, with the same
    result; on other devices nothing changes. The switch is global: while one thread uses it, other threads run without
    it, which only costs them memory.
    """
    if not native_grouped_queries_are_fast() or not _replacing.acquire(blocking=False):
        yield
        return
    own = sdpa_attention.use_gqa_in_sdpa

    def on_the_cpu_always(attention_mask: Tensor | None, key: Tensor, *others: object, **named: object) -> bool:
        return key.device.type == "cpu" or own(attention_mask, key, *others, **named)

    sdpa_attention.use_gqa_in_sdpa = on_the_cpu_always
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = own
        _replacing.release()


shared_heads = native_grouped_query_attention  # the former name
