"""The saved state of an algorithm between rounds."""

from __future__ import annotations

import torch
from tiny import tiny_facts, tiny_model

from nse_plugin.baselines.saved_state import facts_as_tensor, facts_of_tensor, under_prefix, weight_fingerprints
from nse_plugin.facts import Fact


def test_facts_come_back_from_a_file_of_tensors():
    tokyo = Fact("{} is", "東京", "old", locality_prompts=(("Rome is in", "Italy"),), aliases=("Tokio",))
    facts = [*tiny_facts(), tokyo]
    kept = facts_as_tensor(facts)
    assert kept.dtype == torch.uint8
    assert facts_of_tensor(kept) == facts
    assert facts_of_tensor(torch.empty(0, dtype=torch.uint8)) == []


def test_tensors_by_their_prefix():
    state = {"weights.a.b": torch.ones(1), "weights.c": torch.zeros(1), "moments.a": torch.ones(2)}
    assert under_prefix("weights.", state) == {"a.b": state["weights.a.b"], "c": state["weights.c"]}


def test_a_weight_that_changed_has_another_fingerprint_and_no_other_weight_has():
    model = tiny_model("llama")
    before = weight_fingerprints(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    changed = {name for name, mark in weight_fingerprints(model).items() if mark != before[name]}
    assert changed == {"model.layers.1.mlp.up_proj.weight"}
