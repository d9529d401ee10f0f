"""Load a transformers causal language model and its tokenizer, from a folder or the hub."""

from __future__ import annotations

from typing import Any

import torch


def load(source: str, dtype: str = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """The model, in evaluation mode, and its tokenizer.

    source: a folder or a hub name. dtype, device: as torch names them. Raises ValueError for a CUDA that is not there,
    OSError for a source that transformers cannot read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device} cannot be used: there is no CUDA here; use cpu.")
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    return model.to(device).eval(), AutoTokenizer.from_pretrained(source)
