"""A saved tiny model in float64, of an architecture whose norms stay in float64, so that batching changes nothing above
1e-10."""

from __future__ import annotations

import pytest
from tiny import tiny_model, tiny_tokenizer

SETTINGS = "layers: [1, 2]\nalpha: 1.0\nv_num_grad_steps: 4\nmom2_n_samples: 20\n"


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The folder of the model."""
    folder = tmp_path_factory.mktemp("models") / "town-model"
    tiny_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def hparams_file(tmp_path):
    """A file with hyperparameters for the model."""
    path = tmp_path / "mine.yaml"
    path.write_text(SETTINGS)
    return str(path)
