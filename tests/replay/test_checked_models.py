"""A new process does not check a model that an earlier one checked, unless something the check depends on changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from architectures import random_model
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer
from transformers import AttentionInterface
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP

from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.replay import check, checked_models, known_models
from nse_plugin.replay.checked_models import check_new_model
from nse_plugin.session import EditSession
from nse_plugin.support.files import cache_home


@pytest.fixture
def checks(monkeypatch):
    """Up to how many tokens models were checked, in turn."""
    made = []

    def counting(layout, layers, tokenizer, longest=1):
        made.append(longest)
        return check(layout, layers, tokenizer, longest)

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


def test_a_file_that_was_changed_is_not_believed(checks):
    _, weights = in_a_new_process(tiny_model("llama"))
    (file,) = (cache_home() / "checked_models").iterdir()
    content = json.loads(file.read_text())
    content["found"]["whole_rows"] = True
    file.write_text(json.dumps(content))
    found, again = in_a_new_process(tiny_model("llama"))
    assert len(checks) == 2
    assert not found.whole_rows
    assert same(again, weights)


def own_class(model, monkeypatch):
    for layer in model.model.layers:
        layer.mlp.act_fn = OwnActivation()


def own_function_in_the_models_module(model, monkeypatch):
    rotate = modeling_llama.rotate_half
    monkeypatch.setattr(modeling_llama, "rotate_half", lambda x: rotate(x))


def own_forward_in_a_librarys_class(model, monkeypatch):
    forward = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: forward(self, x))


def own_attention(model, monkeypatch):
    AttentionInterface.register("mine", sdpa_attention.sdpa_attention_forward)
    AttentionMaskInterface.register("mine", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation("mine")


class OwnActivation(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.silu(x)


@pytest.mark.parametrize(
    "change", [own_class, own_function_in_the_models_module, own_forward_in_a_librarys_class, own_attention]
)
def test_a_model_that_runs_code_of_the_user_is_checked_in_every_process(change, checks, monkeypatch):
    """The code may do something else in the next process, and the model's identity be the same."""
    for count in (1, 2):
        model = tiny_model("llama")
        with monkeypatch.context() as patched:
            change(model, patched)
            in_a_new_process(model)
        assert len(checks) == count
    assert not (cache_home() / "checked_models").exists()


def test_what_is_not_finite_shows_nothing_and_is_not_kept():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.inf
    check_new_model(Layout.of(model), [1, 2], tiny_tokenizer(), "identity")
    assert not (cache_home() / "checked_models").exists()


def test_the_tokenizer_of_another_model_is_refused_in_every_process(checks, monkeypatch):
    in_a_new_process(tiny_model("llama"))
    layout = Layout.of(tiny_model("llama"))
    monkeypatch.setattr(Layout, "vocabulary", 1)  # the tokenizer has larger ids only
    with pytest.raises(LayoutError, match="give its own"):
        check_new_model(layout, [1, 2], tiny_tokenizer(), "identity")


@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_cache_every_process_checks(home, checks, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "file") if home == "a file" else "")
    if home == "none":
        monkeypatch.setattr(Path, "home", no_home)
    for count in (1, 2):
        in_a_new_process(tiny_model("llama"))
        assert len(checks) == count


def no_home():
    raise RuntimeError("Could not determine home directory.")
