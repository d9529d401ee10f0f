"""A process checks and hashes a model once, and again when the model or what it computes has changed."""

from __future__ import annotations

import pytest
import torch
from architectures import random_model
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.replay import checked_models
from nse_plugin.replay.known_models import known_model, known_with
from nse_plugin.session import EditSession


@pytest.fixture
def checks(monkeypatch):
    """How often a model was checked and how often it was hashed whole, so far."""
    counted = {"check": 0, "full": 0}

    def counting(name, work):
        def counted_work(*args, **kwargs):
            counted[name] += 1
            return work(*args, **kwargs)

        return counted_work

    monkeypatch.setattr(checked_models, "check_model", counting("check", checked_models.check_model))
    monkeypatch.setattr(ModelIdentity, "full", counting("full", ModelIdentity.full))
    return counted


def session_on(model):
    hparams = NSEHyperParams(layers=[1, 2], alpha=0.5, v_num_grad_steps=3, v_lr=0.3)
    return EditSession(model, tiny_tokenizer(), hparams, tiny_moments(model, [1, 2]), list(TEMPLATES))


def test_a_second_session_checks_and_hashes_nothing_and_has_the_same_values(checks):
    model, facts = tiny_model("llama"), tiny_facts()
    first = session_on(model).values(facts)
    assert checks == {"check": 1, "full": 1}
    assert torch.equal(session_on(model).values(facts), first)
    assert checks == {"check": 1, "full": 1}


def test_a_second_session_runs_rows_whole_where_the_first_had_to(checks):
    model, facts = random_model("lfm2"), tiny_facts()
    first = session_on(model)
    values = first.values(facts)
    assert first.state.replay.whole_rows
    assert checks["check"] == 1
    assert torch.equal(session_on(model).values(facts), values)  # wrong after a prefix cache
    assert checks["check"] == 1


def test_a_changed_model_is_checked_again(checks):
    model, facts = tiny_model("llama"), tiny_facts()
    first = session_on(model).values(facts)
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[5, 7] += 1
    second = session_on(model).values(facts)
    assert checks == {"check": 2, "full": 2}
    assert not torch.equal(first, second)


def test_edited_weights_are_another_model(checks):
    model, facts = tiny_model("llama"), tiny_facts()
    session_on(model).edit(facts)
    session_on(model).values(facts)  # the edited weights are this session's original ones
    assert checks == {"check": 2, "full": 2}


def test_a_model_with_hooks_is_checked_every_time(checks):
    model, facts = tiny_model("llama"), tiny_facts()
    session_on(model).values(facts)
    handle = model.model.layers[3].mlp.register_forward_hook(lambda _, __, output: 1.5 * output)
    for count in (2, 3):
        session_on(model).values(facts)
        assert checks["check"] == count
    handle.remove()
    session_on(model).values(facts)
    assert checks["check"] == 3


def test_only_the_last_identity_is_known():
    model = tiny_model("llama")
    known = known_model(model, "as loaded")
    assert known_model(model, "as loaded") is known is known_model(model, "the same, seen otherwise")
    with torch.no_grad():
        model.lm_head.weight += 1
    assert known_model(model, "changed") is not known
    assert known_with(model, known.identity) is None
    assert known_with(tiny_model("llama"), known.identity) is None
