"""Load a transformers causal language model and its tokenizer: from a folder, the hub, or the embedded one."""

from __future__ import annotations

from typing import Any

import torch

EMBEDDED = "embedded"


def easyedit_device(device: str | torch.device) -> int | str:
    """A device as EasyEdit's hyperparameters name it: a GPU by its number."""
    device = torch.device(device)
    return (device.index or 0) if device.type == "cuda" else device.type


def load(source: str, dtype: str = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """The model, in evaluation mode, and its tokenizer.

    source: a folder, a hub name, or `embedded` for the SmolLM2-135M of `embedded_model`. dtype, device: as torch names
    them. Raises ValueError for a CUDA that is not there, OSError for a source that transformers cannot read,
    EmbeddedModelError.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nse_plugin.models.embedded import embedded_model, embedded_model_folder

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device} cannot be used: there is no CUDA here; use cpu.")
    if source == EMBEDDED:
        embedded_model()  # converts it where that was not done yet
        source = str(embedded_model_folder())
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    return model.to(device).eval(), AutoTokenizer.from_pretrained(source)
