"""Replacing the forward pass of modules for a while."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nse_plugin.support.forward import StopForward, forward_replaced, hooked

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


def test_hooks_run_within_and_are_gone_afterwards():
    module, seen = nn.Linear(2, 2), []
    with hooked(module.register_forward_hook(lambda *_: seen.append(1))):
        module(X)
    handle = module.register_forward_pre_hook(lambda *_: seen.append(2))
    with pytest.raises(RuntimeError), hooked(handle):
        module(torch.ones(3))
    module(X)
    assert seen == [1, 2]


def test_a_hook_may_stop_the_forward_pass():
    first, second, seen = nn.Identity(), nn.Identity(), []

    def stop(*_):
        seen.append("first")
        raise StopForward

    handles = first.register_forward_hook(stop), second.register_forward_hook(lambda *_: seen.append("second"))
    with hooked(*handles):
        nn.Sequential(first, second)(X)
    assert seen == ["first"]
    assert torch.equal(nn.Sequential(first, second)(X), X)
