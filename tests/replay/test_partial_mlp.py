"""An MLP run at only some tokens gives the same outputs there as a full run, and passes back the same gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, TEMPLATES, VOCABULARY, tiny_facts, tiny_model, tiny_tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.replay import suffix
from nse_plugin.replay.partial_mlp import mlp_at_positions, mlp_of
from nse_plugin.session import EditSession

B, S, D = 3, 4, 16


class WithResidual(nn.Module):
    """As BLOOM's, which is handed what the layer adds to, and as one whose tuple says more than its output."""

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
    with mlp_at_positions(mlp, (B, S), rows, positions):
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
    with mlp_at_positions(module, (B, S), rows, positions):
        part, other = module(x, residual, scale=scale)
    torch.testing.assert_close(part[rows, positions], whole[rows, positions])
    assert other == "router"


def test_what_was_replaced_is_back_also_after_an_error():
    module = nn.Linear(D, D)
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        mlp_at_positions(module, (B, S), torch.tensor([0]), torch.tensor([0])),
    ):
        raise RuntimeError("on purpose")
    assert module(torch.randn(B, S, D)).all()


def test_a_layer_without_one_is_run_as_it_is():
    layout = Layout.of(tiny_model("llama"), "model.layers.{}.self_attn.o_proj")
    assert mlp_of(layout, 3) is None  # attention is not for each token by itself
    layout = Layout.of(tiny_model("llama"))
    layer = layout.layers[3]
    del layer.mlp.down_proj
    assert mlp_of(layout, 3) is None
    layer.down_proj, layer.mlp = nn.Linear(40, D), nn.Identity()  # the layer itself holds it, as OPT's
    assert layout.output_matrix(3).module is layer.down_proj
    assert mlp_of(layout, 3) is None
    with mlp_at_positions(None, (B, S), torch.tensor([0]), torch.tensor([0])):
        assert layer.down_proj(torch.randn(B, S, 40)).all()


def values_of(model, monkeypatch, everywhere):
    """z where the last MLP runs at all tokens, and where it does not."""
    hparams = NSEHyperParams(layers=[0], alpha=0.5, v_num_grad_steps=4, v_lr=0.3)
    layout = Layout.of(model)
    moments = {0: torch.eye(layout.output_matrix(0).matrix.shape[1], dtype=model.dtype)}
    with monkeypatch.context() as patch:
        if everywhere:
            patch.setattr(suffix, "mlp_of", lambda *_: None)
        session = EditSession(model, tiny_tokenizer(), hparams, moments, list(TEMPLATES))
        return session.values(tiny_facts())


def mixture_of_experts():
    """Its MLP gives its tokens flattened, and the shared expert in it is `W_out`."""
    config = AutoConfig.for_model(
        "llama4_text", hidden_size=D, intermediate_size=40, intermediate_size_mlp=40, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=4, interleave_moe_layer_step=2,
        max_position_embeddings=64, attention_chunk_size=64, vocab_size=VOCABULARY, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def shared_mlp():
    model = tiny_model("llama")
    model.model.layers[2].mlp = model.model.layers[3].mlp
    return model


def steered():
    """Someone's hook that changes every token by itself."""
    model = tiny_model("llama")
    model.model.layers[3].mlp.register_forward_hook(lambda _, __, output: 1.5 * output + 0.3)
    return model


@pytest.mark.parametrize("make", [mixture_of_experts, shared_mlp, steered])
def test_values_are_the_same(make, monkeypatch):
    model = make()
    expected, found = (values_of(model, monkeypatch, everywhere) for everywhere in (True, False))
    tolerance = 1e-4 if model.dtype == torch.float32 else 1e-10
    assert ((found - expected).norm() / expected.norm()) < tolerance
