"""A model together with what was measured on it before the first edit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from session_cases import LAYERS, session_on
from tiny import tiny_facts, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession
from nse_plugin.moments.measure import MomentsError


def test_templates_and_moments_are_those_of_the_original_model(hparams, tmp_path):
    """First asked for after an edit, they are what they would have been before it."""
    settings = dataclasses.replace(hparams, mom2_n_samples=2)

    def stored_apart(name):
        return dataclasses.replace(settings, stats_dir=str(tmp_path / name))

    untouched = EditSession(tiny_model("llama"), tiny_tokenizer(), stored_apart("a"))
    session = session_on(tiny_model("llama"), stored_apart("b"))
    session.edit(tiny_facts())
    session.state.templates = session.state.moments = None
    assert session.templates == untouched.templates
    assert all(torch.equal(session.moments[layer], untouched.moments[layer]) for layer in LAYERS)
    edited = EditSession(session.model, tiny_tokenizer(), stored_apart("c"))
    assert not torch.equal(session.moments[2], edited.moments[2])


def test_a_session_keeps_its_layers(llama, hparams, weights_of, same_weights):
    session = session_on(llama, hparams)
    before = weights_of(llama)
    session.hparams.layers = [0, 1]
    with pytest.raises(ValueError, match=r"layers = \[0, 1\].*\[1, 2\]"):
        session.edit(tiny_facts())
    assert same_weights(weights_of(llama), before)


def test_moments_that_are_not_by_layer_are_refused(llama, hparams):
    with pytest.raises(MomentsError, match=r"moments is a list: give \{layer: tensor \[f, f\]\}"):
        EditSession(llama, tiny_tokenizer(), hparams, list(tiny_moments(llama, LAYERS).values()))
