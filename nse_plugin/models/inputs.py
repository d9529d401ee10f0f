"""The device of a model's input."""

from __future__ import annotations

import torch
from torch import nn


def input_device(model: nn.Module) -> torch.device:
    """Return the device for token ids: that of the input embeddings, wherever the other weights are."""
    device: torch.device = model.get_input_embeddings().weight.device  # type: ignore[operator]
    return device
