"""`python -m benchmarks.durable` on tiny models with few rounds, also for a session that is not as promised."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch
from tiny import tiny_facts, tiny_model, tiny_tokenizer

from benchmarks.durable import kill, reopen
from benchmarks.durable.__main__ import main

YAML = """{alg_name: NSE, model_name: tiny, device: cpu, layers: [1, 2], alpha: 0.5, p: 0.8, v_lr: 0.5,
           v_num_grad_steps: 4, mom2_n_samples: 8}"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run("kill", ...) -> (exit code, printed text). New processes are forks, which need not import anything."""
    monkeypatch.setattr(reopen, "SPAWN", kill.FORK)
    model = tmp_path / "model"
    tiny_model("llama", torch.float32).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    (tmp_path / "nse.yaml").write_text(YAML)
    facts = [dataclasses.asdict(fact) for fact in tiny_facts()]
    (tmp_path / "facts.json").write_text(json.dumps(facts))

    def call(name, *rest):
        files = ["--hparams", str(tmp_path / "nse.yaml"), "--facts", str(tmp_path / "facts.json")]
        given = [name, str(model), *files, *map(str, rest)]
        monkeypatch.setattr(sys, "argv", ["durable", *given])
        return main(), capsys.readouterr().out

    return call


def test_kills(run):
    code, said = run("kill", "--rounds", 3, "--size", 1, "--kills", 3)
    assert code == 0
    assert "DIFFERENT" not in said
    assert said.splitlines()[-1].endswith("sessions of 3 rounds: as promised")


def test_reopened(run):
    code, said = run("reopen", "--rounds", 2, "--size", 2)
    assert code == 0
    assert said.count("bit for bit") == 2
    assert said.splitlines()[-1] == "4 facts, a process for each of 2 rounds: the same weights and protected keys"


@pytest.mark.parametrize(("module", "last"), [(kill, "NOT as promised"), (reopen, "NOT the same")])
def test_what_is_not_as_promised_is_told(module, last, run, monkeypatch):
    """Here of an uninterrupted session of other facts."""
    of_others = module.uninterrupted
    monkeypatch.setattr(module, "uninterrupted", lambda base, rounds: of_others(base, rounds[::-1]))
    name = module.__name__.rpartition(".")[2]
    code, said = run(name, "--rounds", 2, "--size", 1, *(["--kills", 1] if module is kill else []))
    assert code == 1
    assert "DIFFERENT" in said
    assert last in said.splitlines()[-1]


def test_master_copies(run):
    code, said = run("masters", "--rounds", 2, "--tiny-rounds", 2)
    assert code == 0
    assert len(said.splitlines()) == 3
    assert all("distance to float32" in line for line in said.splitlines())
