"""What the outputs of modules depend on besides tensors: adapters, autocast, methods of their classes."""

from __future__ import annotations

import functools

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from tiny import tiny_model

from nse_plugin.models.identity import ModelIdentity


def with_adapter(kind=LoraConfig, **options):
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"]} if kind is LoraConfig else options
    wrapped = get_peft_model(tiny_model("llama"), kind(**options))
    wrapped.add_adapter("other", kind(**options))
    return wrapped


@pytest.mark.parametrize("adapter", [LoraConfig, IA3Config])
@pytest.mark.parametrize("whole", [True, False], ids=["wrapper", "base model"])
def test_adapters_that_are_switched_are_in_it(adapter, whole):
    options = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    wrapped = with_adapter(adapter, **options)
    identity = ModelIdentity(wrapped if whole else wrapped.get_base_model())
    seen = {(identity.full(), identity.quick())}
    with wrapped.disable_adapter():
        seen.add((identity.full(), identity.quick()))
    wrapped.set_adapter("other")
    seen.add((identity.full(), identity.quick()))
    if adapter is LoraConfig:
        wrapped.set_adapter("default")
        for module in wrapped.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", 3.0)
        seen.add((identity.full(), identity.quick()))
    assert len({full for full, _ in seen}) == len({quick for _, quick in seen}) == (4 if adapter is LoraConfig else 3)


def test_merging_an_adapter_is_seen():
    wrapped = with_adapter()
    identity, before = ModelIdentity(wrapped), ModelIdentity(wrapped).full()
    wrapped.merge_adapter()
    assert identity.full() != before


def test_autocast_is_in_it(llama):
    identity = ModelIdentity(llama)
    full, quick = identity.full(), identity.quick()
    with torch.autocast("cpu", torch.bfloat16):
        assert identity.full() != full
        assert identity.quick() != quick
    assert (identity.full(), identity.quick()) == (full, quick)


def scaled(forward, factor):
    """A forward as decorators leave it: with the name, and from the module, of the one it wraps."""

    @functools.wraps(forward)
    def wrapped(self, hidden):
        return factor * forward(self, hidden)

    return wrapped


@pytest.mark.parametrize("method", ["forward", "__call__"])
def test_methods_replaced_for_a_whole_class_are_in_it(llama, method, monkeypatch):
    kind = type(llama.model.layers[0].mlp)
    own, seen = getattr(kind, method), {ModelIdentity(llama).full()}
    for replaced in (lambda self, x: x, lambda self, x: x + 1, scaled(own, 2.0), scaled(own, 3.0)):
        monkeypatch.setattr(kind, method, replaced)
        seen.add(ModelIdentity(llama).full())
        assert ModelIdentity(llama).full() in seen
    assert len(seen) == 5
