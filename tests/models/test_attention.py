"""Shared heads are read without copies, whatever arguments transformers' own function takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, NSEHyperParams
from nse_plugin.models.attention import native_grouped_query_attention
from nse_plugin.models.transformers_private import sdpa_attention

SWITCHES = {
    "up to 5.12": lambda attention_mask, key: attention_mask is None,
    "from 5.13 on": lambda attention_mask, key, value: attention_mask is None,
    "a later one": lambda attention_mask, key, value, query, is_causal=None: attention_mask is None,
}


def calling(switch: Any) -> Any:
    """transformers' attention, as it calls a switch of that kind: all arguments by place, but a last one by name."""
    count = switch.__code__.co_argcount
    names = switch.__code__.co_varnames[:count]

    def asked(mask: Any, key: torch.Tensor, *others: Any) -> bool:
        given = (mask, key, key, key, None)[:count]
        if names[-1] == "is_causal":
            return sdpa_attention.use_gqa_in_sdpa(*given[:-1], is_causal=given[-1])
        return sdpa_attention.use_gqa_in_sdpa(*given)

    return asked


@pytest.mark.parametrize("release", SWITCHES)
def test_the_switch_takes_what_transformers_gives(release, monkeypatch):
    monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", SWITCHES[release])
    ask = calling(SWITCHES[release])
    mask, here, elsewhere = torch.ones(1), torch.ones(1), torch.ones(1, device="meta")
    assert not ask(mask, here)
    with native_grouped_query_attention():
        assert ask(mask, here)
        assert ask(None, elsewhere)
        assert not ask(mask, elsewhere)
    assert sdpa_attention.use_gqa_in_sdpa is SWITCHES[release]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_values_of_models_with_grouped_queries_are_found(kind):
    model = tiny_model(kind)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    hparams = NSEHyperParams(layers=[1, 2], alpha=0.5, v_num_grad_steps=3, device="cpu")
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, [1, 2]), TEMPLATES)
    assert session.values(tiny_facts()).isfinite().all()
