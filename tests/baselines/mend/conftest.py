from __future__ import annotations

import pytest
from mend_cases import FACTS, MATRICES, PRESETS

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.mend import train_mend


@pytest.fixture
def hparams_of(easyeditor, tmp_path):
    """MEND's hyperparameters for a tiny model, small enough for a few steps to matter."""

    def make(model, **overrides):
        small = {
            "inner_params": MATRICES[model.config.model_type],
            "archive": str(tmp_path / "archive.pt"),
            "rank": 8,
            "edit_lr": -1e-2,
            "accumulate_bs": 1,
            "val_interval": 2,
        }
        return load_hparams("MEND", PRESETS / "smollm2-135m.yaml", {**small, **overrides}, model)

    return make


@pytest.fixture
def trained(tiny_llama, tiny_tokenizer, hparams_of):
    """Hyperparameters for the tiny Llama, with a trained archive in the file that they name."""
    hparams = hparams_of(tiny_llama)
    train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams, steps=3)
    return hparams
