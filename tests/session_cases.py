"""Sessions in memory on tiny models, with the settings of the fixture `hparams`, and failures to inject into them."""

from __future__ import annotations

import dataclasses

import torch
from tiny import TEMPLATES, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession, Fact

LAYERS = [1, 2]
NEW = Fact("The river of {} is", "Rome", "cold")
ROUNDS = [
    [Fact("The capital of {} is", "France", "Lyon")],
    [Fact("{} was born in", "Marie Curie", "Rome"), Fact("{} stands in", "Mount Fuji", "Germany")],
    [Fact("The capital of {} is", "Germany", "Rome")],
    [Fact("He plays the violin in {}", "Lyon", "Japan")],
    [Fact("{} is a town of", "Rome", "France")],
]


def session_on(model, hparams, state=None, **settings):
    return EditSession(
        model, tiny_tokenizer(), dataclasses.replace(hparams, **settings), tiny_moments(model, LAYERS), TEMPLATES, state
    )


def edited_weights(model):
    return [model.model.layers[layer].mlp.down_proj.weight.detach().clone() for layer in LAYERS]


def put_back(model, weights):
    with torch.no_grad():
        for layer, weight in zip(LAYERS, weights, strict=True):
            model.model.layers[layer].mlp.down_proj.weight.copy_(weight)


class Boom(BaseException):
    """As abrupt as an interrupt."""


def failing(monkeypatch, owner, name, call=1):
    own, calls = getattr(owner, name), []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Boom
        return own(*args, **kwargs)

    monkeypatch.setattr(owner, name, fail)
