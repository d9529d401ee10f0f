"""Freeze a model for a while: evaluation mode, no parameter gradients, no compiled code; restored afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from nse_plugin.support.restoring import restoring


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Run the block with dropout off and no parameter requiring a gradient; both flags are restored afterwards, even
    after an exception or an interrupt at any point.

    Compiled layers run uncompiled: hooks that are added to compiled code are never called.
    """
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def put_back() -> None:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True

    # nothing is compiled if the compiler was never imported, and importing it takes seconds
    compiled = "torch._dynamo" in sys.modules
    with restoring(put_back), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
