"""A frozen model gets all its flags back, whatever interrupts the work."""

from __future__ import annotations

import pytest
import torch
from interrupting import interrupted_at_every_line
from tiny import tiny_model
from torch import nn

from nse_plugin.models import frozen as frozen_module
from nse_plugin.models.frozen import frozen
from nse_plugin.support import restoring


class Failed(Exception):
    pass


@pytest.fixture
def model():
    """Some of its modules train, some of its parameters ask for gradients."""
    model = tiny_model("llama").train()
    model.model.layers[3].eval()
    model.lm_head.weight.requires_grad_(False)
    return model


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()] + [weight.requires_grad for weight in model.parameters()]


def test_within_nothing_is_trained_and_afterwards_all_is_as_before(model):
    before = flags(model)
    with frozen(model):
        assert not any(flags(model))
    assert flags(model) == before
    with pytest.raises(Failed), frozen(model):
        raise Failed
    assert flags(model) == before
    assert torch.is_grad_enabled()


def test_an_interrupt_at_any_line_leaves_the_flags_as_they_were(model):
    before = flags(model)

    def run():
        with frozen(model):
            pass

    places = 0
    for where in interrupted_at_every_line(run, frozen_module, restoring):
        assert flags(model) == before, where
        places += 1
    assert places > 50  # the loops over modules and parameters among them
