"""Forward passes of a layer with a codebook."""

from __future__ import annotations

import torch

from nse_plugin.baselines.grace import GRACELayer


def test_the_layer_answers_outside_the_radii_and_the_codebook_within(book):
    layer = torch.nn.Linear(2, 3)
    activations = torch.tensor([[[0.0, 1.0], [0.0, 1.01]], [[2.5, 0.0], [4.0, 2.01]]])
    own = layer(activations)
    wrapped = GRACELayer(layer, book)
    answers = layer(activations)
    assert answers[0, 0].tolist() == [1.0, 1.0, 1.0]  # on the edge counts as within
    assert torch.equal(answers[0, 1], own[0, 1])
    assert answers[1, 0].tolist() == [2.0, 2.0, 2.0]
    assert torch.equal(answers[1, 1], own[1, 1])
    wrapped.unwrap()
    assert torch.equal(layer(activations), own)
