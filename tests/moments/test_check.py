"""Second moments that cannot be used are refused, or there is a warning."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from moment_files import spd
from tiny import F, tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments.check import check_moments
from nse_plugin.moments.measure import MomentsError
from nse_plugin.moments.provider import second_moments
from nse_plugin.session import EditSession


def test_few_tokens_are_warned_of_once(llama, tokenizer, settings, caplog):
    few = dataclasses.replace(settings, mom2_n_samples=2)
    with caplog.at_level(logging.WARNING):
        second_moments(Layout.of(llama), tokenizer, few)
    [message] = [record.message for record in caplog.records if "tokens" in record.message]
    assert f"for {F} neurons" in message
    assert "fewer than 10 tokens a neuron" in message
    assert "mom2_n_samples" in message
    caplog.clear()
    second_moments(Layout.of(llama), tokenizer, few)  # also when read
    assert len(caplog.records) == 1


def test_enough_tokens_are_not(llama, tokenizer, hparams, caplog):
    with caplog.at_level(logging.WARNING):
        second_moments(Layout.of(llama), tokenizer, dataclasses.replace(hparams, mom2_n_samples=10))
    assert not caplog.records


def test_a_model_that_is_not_finite_is_refused_at_its_first_batch(tokenizer, settings, monkeypatch):
    model, batches = tiny_model("llama"), []
    model.model.layers[0].self_attn.q_proj.weight.data[0, 0] = float("nan")
    real = module.token_batches
    monkeypatch.setattr(module, "token_batches", lambda *args: (batches.append(b) or b for b in real(*args)))
    with pytest.raises(MomentsError, match=r"layer 1's MLP .* is NaN or infinite .* its weights hold such numbers"):
        second_moments(Layout.of(model), tokenizer, settings)
    assert len(batches) <= 2


def test_given_moments_are_checked(llama, tokenizer, hparams):
    good = {1: spd(1), 2: spd(2), 3: spd(3)}
    matrices = Layout.of(llama).output_matrices([1, 2])
    assert list(check_moments(good, matrices)) == [1, 2]
    for bad, words in (
        ({1: spd(1)}, "no entry for layer 2"),
        ({**good, 2: spd(2)[:5, :5]}, r"moments\[2\] has shape \(5, 5\).*needs \(40, 40\)"),
        ({**good, 2: spd(2) * torch.inf}, r"moments\[2\] holds NaN or infinite"),
    ):
        with pytest.raises(MomentsError, match=words):
            EditSession(llama, tokenizer, hparams, moments=bad)
