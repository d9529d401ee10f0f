"""A model held still: evaluation mode, no parameter gradients, nothing compiled; all put back afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from nse_plugin.support.restoring import restoring


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within, dropout is off and no parameter asks for a gradient; both flags return, also after an exception or an
    interrupt, whenever it comes.

    Layers that were compiled are run as they were written: hooks that are added to compiled code are never called.
    """
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def put_back() -> None:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True

    # nothing can have been compiled where the compiler was never imported, and importing it takes seconds
    compiled = "torch._dynamo" in sys.modules
    with restoring(put_back), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
