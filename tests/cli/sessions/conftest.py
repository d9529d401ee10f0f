"""A session of a tiny saved model, made by `nse edit`."""

from __future__ import annotations

import json

import pytest

from nse_plugin.cli import main

YAML = """
alg_name: NSE
model_name: tiny
device: cpu
layers: [1, 2]
alpha: 0.5
p: 0.8
v_lr: 5e-1
v_num_grad_steps: 20
mom2_update_weight: 1
mom2_n_samples: 8
"""
FACTS = [
    {"prompt": "The capital of {} is", "subject": "France", "target_new": "Lyon", "case_id": "lyon"},
    {"prompt": "{} was born in", "subject": "Marie Curie", "target_new": "Rome", "case_id": 7},
    {"prompt": "{} stands in", "subject": "Mount Fuji", "target_new": "Germany"},
]


@pytest.fixture
def run(saved, tmp_path, capsys, monkeypatch):
    """run("edit", ...) -> (exit code, what was printed), with --model and --session of the test's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nse.yaml").write_text(YAML)
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))

    def call(command, *rest, model=True):
        code = main([command, *(["--model", saved] if model else []), "--session", "session", *map(str, rest)])
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def edited(run):
    """The same, after a round of one fact and one of two."""
    run("edit", "--hparams", "nse.yaml", "--facts", "facts.json", "--limit", 1, "--author", "ann", "--reason", "first")
    run("edit", "--facts", "facts.json", "--skip", 1, "--limit", 2, "--author", "bob")
    return run
