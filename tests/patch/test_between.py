"""The patch between two models, however the second was edited."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_facts, tiny_model, tiny_tokenizer

from nse_plugin import EditPatch, Fact
from nse_plugin.patch.between import patch_between
from nse_plugin.patch.columns import PatchError

TIME = "2026-11-28T00:00:00+00:00"
FACTS = tiny_facts()[:2]


def pair(kind, *names):
    """The base, and a copy with other numbers in one column or row of some parameters."""
    base = tiny_model(kind, torch.float32)
    edited = copy.deepcopy(base)
    with torch.no_grad():
        for name in names:
            edited.get_parameter(name)[..., 2].add_(0.5)
    return base, edited


def between(base, edited, alg_name="ROME"):
    return patch_between(base, edited, tiny_tokenizer(), {"alg_name": alg_name}, FACTS, TIME)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "names", "layers"),
    [
        ("llama", ["model.layers.1.mlp.down_proj.weight", "model.layers.2.mlp.down_proj.weight"], [1, 2]),
        ("llama", ["model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp.down_proj.weight"], [0, 1]),
        ("gpt2", ["transformer.h.2.mlp.c_proj.weight"], [2]),
        ("llama", ["lm_head.weight"], [0]),
    ],
)
def test_it_turns_one_into_the_other(kind, names, layers, tmp_path):
    base, edited = pair(kind, *names)
    patch = EditPatch.load(between(base, edited).save(tmp_path / "x.patch"))
    assert list(patch.columns) == layers
    assert sorted(patch.matrices.values()) == sorted(names)
    assert [Fact(**fact) for fact in patch.facts] == FACTS
    assert patch.rounds[0]["reason"] == "ROME"
    model = copy.deepcopy(base)
    patch.apply(model)
    assert same(model, edited)
    assert patch.verify(model) == "applied"
    patch.revert(model)
    assert same(model, base)


def test_an_adapter_of_it_names_the_method(tmp_path):
    base, edited = pair("llama", "model.layers.1.mlp.down_proj.weight")
    card = (between(base, edited).to_lora(tmp_path / "lora") / "README.md").read_text()
    assert "from 1 rounds of edits (ROME)" in card


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("llama", "model.layers.1.input_layernorm.weight", "input_layernorm.weight differs and is no matrix"),
        ("gpt2", "transformer.h.2.mlp.c_proj.bias", "c_proj.bias differs and is no matrix"),
    ],
)
def test_what_is_no_matrix_is_refused(kind, name, words):
    base, edited = pair(kind, name)
    with pytest.raises(PatchError, match=words):
        between(base, edited)


def test_the_same_models_are_refused():
    with pytest.raises(PatchError, match="same weights"):
        between(*pair("llama"))


def test_another_buffer_is_refused():
    base, edited = pair("llama", "model.layers.1.mlp.down_proj.weight")
    for number, model in enumerate((base, edited)):
        model.register_buffer("scale", torch.tensor([float(number)]))
    with pytest.raises(PatchError, match="a buffer of the models differs"):
        between(base, edited)


def test_other_parameters_are_refused():
    base, edited = pair("llama", "model.layers.1.mlp.down_proj.weight")
    edited.extra = torch.nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(PatchError, match="only one of the models has extra"):
        between(base, edited)
