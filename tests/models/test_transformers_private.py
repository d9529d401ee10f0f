"""Internals of transformers that this package relies on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import ARCHITECTURES, tiny_model
from transformers import AutoConfig

from nse_plugin.models.transformers_private import attention_of, cache_argument, cache_of, rope_settings


@pytest.mark.filterwarnings("error::FutureWarning")  # of a name that transformers will drop
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cache_that_a_forward_returns_is_taken_under_the_name_that_is_found(architecture):
    model, ids = tiny_model(architecture), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        begun = cache_of(model(input_ids=ids[:, :3], use_cache=True))
        rest = model(input_ids=ids[:, 3:], **{cache_argument(model): begun}).logits
    assert torch.allclose(rest[:, 0], whole[:, 3], rtol=1e-6, atol=1e-6)


def test_a_wrappers_forward_is_asked_through():
    model = tiny_model("llama")
    name = cache_argument(model)
    assert cache_argument(get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))) == name


def test_outputs_without_a_cache():
    assert cache_of(SimpleNamespace(logits=1)) is None
    assert cache_of(SimpleNamespace(past_key_values="old")) == "old"
    assert cache_of(SimpleNamespace(cache="new", past_key_values="old")) == "new"


def test_the_attention_that_is_asked_for():
    for name in ("eager", "sdpa"):
        assert attention_of(AutoConfig.for_model("llama", attn_implementation=name)) == name
    assert attention_of(SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"rope_parameters": {"rope_type": "default"}}, [{"rope_type": "default"}]),
        ({"rope_scaling": {"rope_type": "dynamic"}}, [{"rope_type": "dynamic"}]),
        ({"rope_parameters": {"full_attention": {"a": 1}, "sliding_attention": {"b": 2}}}, [{"a": 1}, {"b": 2}]),
        ({}, [{}]),
    ],
)
def test_rotary_settings_are_one_or_one_for_each_kind_of_layer(given, found):
    assert rope_settings(SimpleNamespace(**given)) == found
