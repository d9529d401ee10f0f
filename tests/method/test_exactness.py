"""Values, keys, residuals and complete rounds against the slow oracles, in float64, on every architecture."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from oracles import relative
from tiny import tiny_model, tiny_moments

from nse_plugin.models.layout import Layout
from nse_plugin.session import EditSession

pytestmark = pytest.mark.usefixtures("all_in_double")


def test_all_four_ablations_are_sequential_memit(llama, tokenizer, facts, templates, hparams):
    """MEMIT, round after round on the present weights: written here as MEMIT is defined, one pass, every neuron."""
    ablated = dataclasses.replace(hparams, rewind=False, p=1.0, max_iterations=1, accumulate=False)
    twin = tiny_model("llama")
    moments = tiny_moments(llama, [1, 2])
    session = EditSession(llama, tokenizer, ablated, moments, templates)
    for chunk in (facts[:2], facts[2:]):
        session.edit(chunk)
        values = [oracles.value(twin, tokenizer, fact, templates, ablated) for fact in chunk]
        for i, layer in enumerate(ablated.layers):
            seen = [oracles.key_and_output(twin, tokenizer, fact, templates, layer, 2) for fact in chunk]
            residuals = [(z - h) / (2 - i) for z, (_, h) in zip(values, seen, strict=True)]
            k = torch.stack([key for key, _ in seen]).T
            matrix = ablated.mom2_update_weight * moments[layer] + k @ k.T
            delta = torch.stack(residuals).T @ torch.linalg.solve(matrix, k).T
            Layout.of(twin).output_matrix(layer).matrix.add_(delta)
    for layer in ablated.layers:
        assert (
            relative(Layout.of(llama).output_matrix(layer).matrix, Layout.of(twin).output_matrix(layer).matrix) <= 1e-10
        )
    assert session.state.knowledge.count == 0
