"""Values are computed, or read from the store."""

from __future__ import annotations

import dataclasses

import torch
from tiny import tiny_facts
from tiny_sessions import base, in_memory

from nse_plugin.session import value_source
from nse_plugin.store import Store


def test_a_session_computes_each_value_once(tmp_path, monkeypatch):
    store, folder = Store(tmp_path), str(tmp_path)
    plain, first = in_memory(base()), in_memory(base(), store=folder)
    facts = tiny_facts()
    for one in (plain, first):
        one.edit(facts[:2])
        one.edit(facts[2:])
    assert len(store.entries()) == len(facts)
    computed = []
    real = value_source.optimize_values
    monkeypatch.setattr(value_source, "optimize_values", lambda *a: computed.append(len(a[1])) or real(*a))
    again = in_memory(base(), store=folder, p=0.5, alpha=3.0)
    assert torch.equal(again.values(facts), first.values(facts))
    assert computed == []
    more = [*facts, dataclasses.replace(facts[0], subject="Italy")]
    again.values(more)
    assert computed == [1]
    assert torch.allclose(plain.values(facts), first.values(facts), rtol=1e-5, atol=1e-5)  # float32, in other batches
    for layer in (1, 2):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        found, expected = (one.model.get_parameter(name) for one in (first, plain))
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_without_rewinding_values_are_of_this_moment_and_not_kept(tmp_path):
    one = in_memory(base(), store=str(tmp_path), rewind=False)
    one.edit(tiny_facts()[:1])
    assert Store(tmp_path).entries() == []
