"""Rewinding restores the edited weights, whatever interrupts the work."""

from __future__ import annotations

import pytest
import torch
from interrupting import interrupted_at_every_line
from tiny import tiny_model

from nse_plugin.method import rewind
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.layout import Layout
from nse_plugin.support import restoring


@pytest.fixture
def matrices():
    return Layout.of(tiny_model("llama")).output_matrices([1, 2])


@pytest.fixture
def originals(matrices):
    """The matrices are edited afterwards."""
    originals = OriginalWeights.of(matrices)
    for matrix in matrices.values():
        matrix.weight.data.mul_(2)
    return originals


def test_within_the_original_weights_are_used_and_afterwards_the_edited_ones(matrices, originals):
    places = [matrix.weight.data_ptr() for matrix in matrices.values()]
    with originals.rewound(matrices):
        assert all(torch.equal(matrix.weight, originals.tensors[layer]) for layer, matrix in matrices.items())
    assert [matrix.weight.data_ptr() for matrix in matrices.values()] == places
    assert all(torch.equal(matrix.weight, 2 * originals.tensors[layer]) for layer, matrix in matrices.items())


def test_an_interrupt_at_any_line_leaves_the_edited_weights(matrices, originals):
    places = [matrix.weight.data_ptr() for matrix in matrices.values()]

    def run():
        with originals.rewound(matrices):
            pass

    interrupted = 0
    for where in interrupted_at_every_line(run, rewind, restoring):
        assert [matrix.weight.data_ptr() for matrix in matrices.values()] == places, where
        interrupted += 1
    assert interrupted > 10
