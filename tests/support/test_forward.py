"""Modules that for a while do something else when they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nse_plugin.support.forward import forward_replaced

X = torch.ones(2)


def test_calling_it_calls_the_other_one_and_its_hooks_stay():
    module, seen = nn.Identity(), []
    module.register_forward_hook(lambda _, __, output: seen.append(output))
    with forward_replaced(module, lambda x: 3 * x):
        assert torch.equal(module(X), 3 * X)
    assert torch.equal(module(X), X)
    assert [float(output[0]) for output in seen] == [3, 1]
    assert "forward" not in vars(module)


def test_a_forward_of_its_own_is_back_also_after_an_error():
    module = nn.Identity()
    module.forward = lambda x: 5 * x  # as accelerate's hooks leave one
    with pytest.raises(KeyError), forward_replaced(module, lambda x: x):
        raise KeyError
    assert torch.equal(module(X), 5 * X)
