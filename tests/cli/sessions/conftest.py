"""A session of a tiny saved model, made once by `nse edit` and copied for each test."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.cli.options import NOT_ALL

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


def write_files(folder):
    (folder / "nse.yaml").write_text(YAML)
    (folder / "facts.json").write_text(json.dumps(FACTS))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a session of two rounds, of one fact and of two, and with the cache that these rounds filled."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model("llama", torch.float32).save_pretrained(folder / "town-model")
    tiny_tokenizer().save_pretrained(folder / "town-model")
    write_files(folder)
    first = ["--hparams", "nse.yaml", "--facts", "facts.json", "--limit", "1", "--author", "ann", "--reason", "first"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSE_HOME", str(folder / "nse-home"))
        patch.chdir(folder)
        for rest in (first, ["--facts", "facts.json", "--skip", "1", "--limit", "2", "--author", "bob"]):
            assert main(["edit", "--model", "town-model", "--session", "session", *rest]) in (0, NOT_ALL)
    return folder


@pytest.fixture
def run(saved, tmp_path, capsys, monkeypatch):
    """run("edit", ...) -> (exit code, printed text), with the --model and --session of the test."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)

    def call(command, *rest, model=True):
        code = main([command, *(["--model", saved] if model else []), "--session", "session", *map(str, rest)])
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def edited(made, run, tmp_path):
    """`run`, on a session that has a round of one fact and one of two already."""
    for name in ("session", "nse-home"):
        shutil.copytree(made / name, tmp_path / name)
    return run
