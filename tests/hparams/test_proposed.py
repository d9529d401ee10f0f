"""Hyperparameters proposed for a model that nobody tuned."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from tiny import TEMPLATES, D, F, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.hparams.proposed import hidden_norm, proposed_layers
from nse_plugin.session import EditSession


@pytest.mark.parametrize(("count", "layers"), [(30, [4, 5, 6]), (32, [4, 5, 6, 7, 8]), (4, [0, 1, 2]), (2, [0])])
def test_layers_begin_at_an_eighth_of_the_depth(count, layers):
    assert proposed_layers(count) == layers


def test_a_model_of_one_layer_has_none_to_edit():
    with pytest.raises(HyperParamsError, match="No layers can be proposed"):
        proposed_layers(1)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_loaded_model_gets_proposals_from_its_own_norms(kind, caplog):
    model = tiny_model(kind).train()
    with caplog.at_level(logging.WARNING):
        hparams = NSEHyperParams.for_model(model, p=0.9)
    norm = hidden_norm(model, 2)
    assert (hparams.layers, hparams.p, hparams.mom2_update_weight) == ([0, 1, 2], 0.9, F)
    assert hparams.alpha == pytest.approx(0.1 * norm, rel=0.05)
    assert hparams.v_lr == pytest.approx(0.75 * norm / (8 * D**0.5), rel=0.05)
    (message,) = caplog.messages
    assert message.startswith("proposed, not tuned: layers = [0, 1, 2], ")
    assert f"alpha = {hparams.alpha}" in message
    assert all(module.training for module in model.modules())


def test_given_values_are_not_proposed():
    model = tiny_model("llama")
    hparams = NSEHyperParams.for_model(model, layers=[1], v_lr=0.25)
    assert (hparams.layers, hparams.v_lr) == ([1], 0.25)
    assert hparams.alpha == pytest.approx(0.1 * hidden_norm(model, 1), rel=0.05)


def test_alpha_and_rate_of_a_session_are_proposed_once_it_has_a_model(tmp_path):
    model, open_ones = tiny_model("llama", torch.float32), NSEHyperParams(layers=[1, 2], alpha=None, v_lr=None)
    given = tiny_tokenizer(), dataclasses.replace(open_ones, v_num_grad_steps=3)
    extra = {"moments": tiny_moments(model, [1, 2]), "templates": list(TEMPLATES)}
    with EditSession.open(tmp_path / "s", model, *given, **extra) as session:
        first = session.hparams
        session.edit(tiny_facts()[:2])
    assert first.alpha == open_ones.completed(tiny_model("llama", torch.float32)).alpha
    with EditSession.open(tmp_path / "s", model, *given, **extra) as session:
        assert session.hparams == first


def test_without_a_number_for_alpha_nothing_is_edited():
    with pytest.raises(HyperParamsError, match=r"alpha = None cannot be used: give a number"):
        NSEHyperParams(layers=[1], alpha=None).known("alpha")
