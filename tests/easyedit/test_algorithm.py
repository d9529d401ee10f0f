"""The state that calls from EasyEdit leave behind: rounds, by model and by layers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from session_cases import Boom, edited_weights, failing
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.easyedit import algorithm
from nse_plugin.easyedit.algorithm import NSE
from nse_plugin.session import session as session_module


@pytest.mark.parametrize("earlier", [0, 1])
def test_easyedit_remembers_a_round_that_is_stopped_after_its_commit(earlier, hparams, monkeypatch):
    model, nse = tiny_model("llama"), NSE()
    settings = dataclasses.replace(hparams, mom2_n_samples=2)
    original = edited_weights(model)

    def edit(subject, target):
        request = {"prompt": "The capital of {} is", "subject": subject, "target_new": target}
        nse.apply_to_model(model, tiny_tokenizer(), [request], settings)

    for _ in range(earlier):
        edit("France", "Lyon")
    with monkeypatch.context() as patch:
        failing(patch, session_module, "trim_heap")
        with pytest.raises(Boom):
            edit("Germany", "Rome")
    assert nse.state_of(model).knowledge.count == earlier + 1
    edit("Rome", "Italy")
    assert nse.state_of(model).knowledge.count == earlier + 2
    assert torch.equal(nse.state_of(model).originals.tensors[1], original[0])


def test_easyedit_knows_the_rounds_of_each_choice_of_layers(hparams, caplog):
    """Rounds in other layers are no others' changes, unless they stand in a matrix of these."""
    model, nse = tiny_model("llama"), NSE()
    original = edited_weights(model)
    subjects = iter(["France", "Germany", "Italy", "Japan", "Rome", "Lyon"])

    def edit(*layers):
        settings = dataclasses.replace(hparams, layers=list(layers), mom2_n_samples=2)
        request = {"prompt": "The capital of {} is", "subject": next(subjects), "target_new": "Berlin"}
        caplog.clear()
        nse.apply_to_model(model, tiny_tokenizer(), [request], settings)
        return nse.state_of(model)

    edit(1, 2)
    edit(1, 2)
    assert edit(0).knowledge.count == 1
    assert "the edited matrices changed from model.layers.1" in caplog.text
    state = edit(1, 2)
    assert state.knowledge.count == 3
    assert torch.equal(state.originals.tensors[1], original[0])
    after = {name: weight.clone() for name, weight in model.state_dict().items()}
    edit(0, 1)
    model.load_state_dict(after)
    state = edit(1, 2)
    assert "afresh" not in caplog.text
    assert state.knowledge.count == 4
    assert torch.equal(state.originals.tensors[1], original[0])


def test_easyedit_starts_afresh_where_a_round_in_other_layers_stands(hparams, caplog):
    model, nse = tiny_model("llama"), NSE()
    for layers, subject in (([1, 2], "France"), ([0, 1], "Germany"), ([1, 2], "Italy")):
        settings = dataclasses.replace(hparams, layers=layers, mom2_n_samples=2)
        request = {"prompt": "The capital of {} is", "subject": subject, "target_new": "Berlin"}
        nse.apply_to_model(model, tiny_tokenizer(), [request], settings)
    assert "changed by someone else since the last round in these layers, or by rounds in others" in caplog.text
    assert nse.state_of(model).knowledge.count == 1


@pytest.mark.parametrize("call", range(1, 7))
def test_easyedits_state_and_weights_agree_wherever_a_call_fails(call, hparams, monkeypatch):
    """As when memory runs out while the weights are read: two matrices when the state is looked up, two before the
    round, two after it."""
    model, nse = tiny_model("llama"), NSE()
    settings = dataclasses.replace(hparams, mom2_n_samples=2)

    def edit(subject, target):
        request = {"prompt": "The capital of {} is", "subject": subject, "target_new": target}
        nse.apply_to_model(model, tiny_tokenizer(), [request], settings)

    original = edited_weights(model)
    edit("France", "Lyon")
    between = edited_weights(model)
    with monkeypatch.context() as patch:
        failing(patch, algorithm, "fingerprint", call)
        with pytest.raises(Boom):
            edit("Germany", "Rome")
    assert all(map(torch.equal, edited_weights(model), between))
    edit("Rome", "Italy")
    state = nse.state_of(model)
    assert torch.equal(state.originals.tensors[1], original[0])
    assert state.knowledge.count == 2
