"""Facts of three rounds, and the comparison of models to the bit."""

from __future__ import annotations

import torch

from nse_plugin import Fact

ROUNDS = [
    [Fact("The capital of {} is", "France", "Lyon", case_id="lyon")],
    [Fact("{} was born in", "Marie Curie", "Rome"), Fact("{} stands in", "Mount Fuji", "Germany")],
    [Fact("The capital of {} is", "Germany", "Rome")],
]


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, weights):
    now = model.state_dict()
    return now.keys() == weights.keys() and all(torch.equal(now[name], weights[name]) for name in weights)
