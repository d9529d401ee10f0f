"""W_out: its columns are neurons, in either storage order."""

from __future__ import annotations

import pytest
import torch
from tiny import D, F, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from nse_plugin.models.layout import Layout, LayoutError


@pytest.mark.parametrize(("architecture", "kind"), [("llama", nn.Linear), ("gpt2", Conv1D)])
def test_columns_are_neurons_in_linear_and_conv1d(architecture, kind):
    """Adding to neuron j changes the module's output by its activity times the vector added."""
    matrix = Layout.of(tiny_model(architecture)).output_matrix(1)
    assert isinstance(matrix.module, kind)
    keys = torch.randn(3, F, dtype=torch.float64)
    neurons, delta = torch.tensor([4, 17]), torch.randn(D, 2, dtype=torch.float64)
    with torch.no_grad():
        before = matrix.module(keys)
        parameter = matrix.weight
        matrix.add_columns(neurons, delta)
        change = matrix.module(keys) - before
    assert matrix.weight is parameter
    assert torch.allclose(change, keys[:, neurons] @ delta.T)


def test_columns_are_summed_in_float64_and_rounded_once():
    matrix = Layout.of(tiny_model("llama", torch.bfloat16)).output_matrix(1)
    before = matrix.matrix.clone()
    delta = torch.randn(D, F, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix.add_columns(torch.arange(F), delta)
    assert torch.equal(matrix.matrix, (before.double() + delta).to(torch.bfloat16))


def test_keys_are_told_apart_by_token_or_refused(llama):
    matrix = Layout.of(llama).output_matrix(1)
    keys = torch.randn(2, 3, F)
    assert torch.equal(matrix.keys(keys, 2, 3), keys)
    assert torch.equal(matrix.keys(keys.flatten(0, 1), 2, 3), keys)
    with pytest.raises(LayoutError, match=r"is given 4 tokens where the model is given 6"):
        matrix.keys(keys.flatten(0, 1)[:4], 2, 3)
