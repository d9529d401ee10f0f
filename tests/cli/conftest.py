from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main


@pytest.fixture
def saved(tmp_path):
    """The folder of a saved tiny model."""
    folder = tmp_path / "town-model"
    tiny_model("llama", torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def session(saved, tmp_path, monkeypatch):
    """The folder `session` with two rounds, made by `nse edit`; the saved model's folder."""
    monkeypatch.chdir(tmp_path)
    Path("nse.yaml").write_text(
        "alg_name: NSE\nmodel_name: tiny\ndevice: cpu\nlayers: [1, 2]\nalpha: 0.5\nv_num_grad_steps: 4\n"
        "mom2_n_samples: 8\n"
    )
    for name, target in (("France", "Lyon"), ("Italy", "Rome")):
        fact = ["--fact", "The capital of {} is", name, target]
        main(["edit", "--model", saved, "--session", "session", "--hparams", "nse.yaml", *fact])
    return saved
