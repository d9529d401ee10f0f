from __future__ import annotations

import pytest
import torch

from nse_plugin.baselines.grace import Codebook, GRACEHyperParams


@pytest.fixture
def hparams():
    return GRACEHyperParams(inner_params=["model.layers[2].mlp.down_proj.weight"], eps=0.05, n_iter=60, edit_lr=1.0)


@pytest.fixture
def book():
    """Two entries in the plane: at the origin with radius 1, and at (4, 0) with radius 2."""
    return Codebook(
        keys=torch.tensor([[0.0, 0.0], [4.0, 0.0]]),
        values=torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]),
        radii=torch.tensor([1.0, 2.0]),
        labels=((7,), (8, 9)),
    )
