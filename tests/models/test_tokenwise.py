"""An MLP that is run at some tokens only gives there what it would have given, and passes the same gradient back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, tiny_model
from torch import nn

from nse_plugin.models.layout import Layout
from nse_plugin.models.tokenwise import mlp_of, only_at

B, S, D = 3, 4, 16


class WithResidual(nn.Module):
    """As BLOOM's: what the layer adds is handed in, and as a mixture of experts': a tuple comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(D, D, dtype=torch.float64)

    def forward(self, hidden, residual, scale=None):
        return self.inner(hidden).tanh() * (1 if scale is None else scale) + residual, "router"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=10, deadline=None)
@given(named=st.lists(st.tuples(st.integers(0, B - 1), st.integers(0, S - 1)), min_size=1, max_size=6))
def test_the_same_at_these_tokens_and_nothing_elsewhere(architecture, named):
    layout = Layout.of(tiny_model(architecture))
    mlp = mlp_of(layout, 3)
    x = torch.randn(B, S, D, dtype=torch.float64, requires_grad=True)
    rows, positions = torch.tensor(named).T
    whole = mlp(x)[rows, positions]
    (expected,) = torch.autograd.grad(whole.square().sum(), x)
    with only_at(mlp, (B, S), rows, positions):
        part = mlp(x)
    (found,) = torch.autograd.grad(part[rows, positions].square().sum(), x)
    torch.testing.assert_close(part[rows, positions], whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    elsewhere = torch.ones(B, S, dtype=torch.bool)
    elsewhere[rows, positions] = False
    assert not part[elsewhere].any()
    assert mlp(x).shape == x.shape  # and nothing of it stays


def test_all_that_is_handed_in_a_token_each_is_chosen_from():
    module = WithResidual()
    x, residual, scale = (torch.randn(B, S, D, dtype=torch.float64) for _ in range(3))
    rows, positions = torch.tensor([2, 0]), torch.tensor([1, 3])
    whole, _ = module(x, residual, scale=scale)
    with only_at(module, (B, S), rows, positions):
        part, other = module(x, residual, scale=scale)
    torch.testing.assert_close(part[rows, positions], whole[rows, positions])
    assert other == "router"


def test_hooks_are_taken_away_also_after_an_error():
    module = nn.Linear(D, D)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        only_at(module, (B, S), torch.tensor([0]), torch.tensor([0])),
    ):
        raise RuntimeError("on purpose")
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_a_layer_without_one_is_run_as_it_is():
    layout = Layout.of(tiny_model("llama"))
    del layout.layers[3].mlp.down_proj
    assert mlp_of(layout, 3) is None
    layout.layers[3].down_proj = nn.Linear(40, D)  # the layer itself holds it, as OPT's
    layout.layers[3].mlp = nn.Identity()
    assert layout.output_matrix(3).module is layout.layers[3].down_proj
    assert mlp_of(layout, 3) is None
    with only_at(None, (B, S), torch.tensor([0]), torch.tensor([0])):
        pass
