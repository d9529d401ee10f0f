"""A new process does not check a model that an earlier one checked, unless something the check depends on changed."""

from __future__ import annotations

import pytest
import torch
from architectures import random_model
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.replay import check, checked_models, known_models
from nse_plugin.session import EditSession
from nse_plugin.support.files import cache_home


@pytest.fixture
def checks(monkeypatch):
    """Up to how many tokens models were checked, in turn."""
    made = []

    def counting(layout, layers, tokenizer, longest=1):
        made.append(longest)
        check(layout, layers, tokenizer, longest)

    check = checked_models.check_model
    monkeypatch.setattr(checked_models, "check_model", counting)
    return made


def in_a_new_process(model, facts=None, layers=(1, 2)):
    """Weights after a round on a copy that this process does not know."""
    known_models._MODELS.clear()
    hparams = NSEHyperParams(layers=list(layers), alpha=0.5, v_num_grad_steps=3, v_lr=0.3)
    session = EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, list(layers)), list(TEMPLATES))
    session.edit(facts or tiny_facts())
    return session.state.replay, {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "lfm2"])
def test_a_new_process_checks_nothing_and_writes_the_same(kind, checks):
    make = {"llama": tiny_model, "gpt2": tiny_model}.get(kind, random_model)
    found, weights = in_a_new_process(make(kind))
    assert checks == [1]
    again, same_weights = in_a_new_process(make(kind))
    assert checks == [1]
    assert same(weights, same_weights)
    assert (again.whole_rows, again.checked) == (found.whole_rows, found.checked)
    assert again.batched == found.batched


def test_longer_rows_and_other_layers_are_checked_and_added(checks, monkeypatch):
    monkeypatch.setattr(check, "_USUAL", 48)
    fact = tiny_facts()[0]
    long = [Fact(f"{'It is so. ' * 4}{fact.prompt}", fact.subject, fact.target_new)]
    in_a_new_process(tiny_model("llama"))
    in_a_new_process(tiny_model("llama"), long)
    assert len(checks) == 2
    assert checks[1] > 48
    in_a_new_process(tiny_model("llama"), layers=(0, 1))
    assert len(checks) == 3
    in_a_new_process(tiny_model("llama"), long)
    in_a_new_process(tiny_model("llama"), layers=(0, 1))
    assert len(checks) == 3


@pytest.mark.parametrize("change", ["weights", "attention", "transformers", "source"])
def test_what_the_check_depends_on_is_checked_again(change, checks, monkeypatch):
    in_a_new_process(tiny_model("llama"))
    model = tiny_model("llama")
    if change == "weights":
        with torch.no_grad():
            model.model.layers[3].mlp.up_proj.weight[5, 7] += 1
    if change == "attention":
        model.set_attn_implementation("eager")
    if change == "transformers":
        monkeypatch.setattr(checked_models.transformers, "__version__", "99.0")
    if change == "source":
        monkeypatch.setattr(checked_models, "_source", lambda: "another")
    in_a_new_process(model)
    assert len(checks) == 2


def test_a_damaged_file_is_ignored_and_replaced(checks):
    _, weights = in_a_new_process(tiny_model("llama"))
    (file,) = (cache_home() / "checked_models").iterdir()
    for count, damage in enumerate(
        ["", "{", "[]", '{"checked": 1}', '{"checked": [[[1, 2], 64]], "whole_rows": 0}'], 2
    ):
        file.write_text(damage)
        assert same(in_a_new_process(tiny_model("llama"))[1], weights)
        assert len(checks) == count
    in_a_new_process(tiny_model("llama"))
    assert len(checks) == count


def test_a_model_with_classes_of_its_own_is_checked_in_every_process(checks):
    class Own(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.silu(x)

    for count in (1, 2):
        model = tiny_model("llama")
        for layer in model.model.layers:
            layer.mlp.act_fn = Own()
        in_a_new_process(model)
        assert len(checks) == count


def test_a_cache_that_cannot_be_written_costs_a_check_only(checks, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "file"))
    in_a_new_process(tiny_model("llama"))
    in_a_new_process(tiny_model("llama"))
    assert len(checks) == 2
