"""`nse edit --dry-run` writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

from nse_plugin.cli import main


def test_a_dry_run_writes_nothing(edited):
    before = {path: path.read_bytes() for path in Path("session").rglob("*") if path.is_file()}
    fact = ("--fact", "The capital of {} is", "France", "Rome")
    code, said = edited("edit", *fact, "--dry-run", "--json")
    found = json.loads(said)
    assert code == 0
    assert found["conflicts"] == [{"prompt": "The capital of France is", "target": "Rome", "stands": "Lyon"}]
    assert found["facts"][0]["subject"].endswith(found["facts"][0]["lookup"])
    assert found["seconds"] > 0
    code, said = edited("edit", *fact, "--dry-run")
    assert "1 conflict (replace)" in said
    assert "Nothing was written" in said
    assert {path: path.read_bytes() for path in before} == before


def test_a_dry_run_begins_no_session(run):
    fact = ("--fact", "The capital of {} is", "France", "Rome")
    code, said = run("edit", "--hparams", "nse.yaml", *fact, "--dry-run")
    assert (code, "1 fact, 0 conflicts" in said) == (0, True)
    assert not Path("session").exists()


def test_a_dry_run_refuses_what_the_edit_would_refuse(edited, saved, capsys):
    two = [word for city in ("Rome", "Nice") for word in ("--fact", "The capital of {} is", "Japan", city)]
    assert main(["edit", "--model", saved, "--session", "session", *two, "--dry-run"]) == 1
    assert "for different targets, 'Rome' and 'Nice'" in capsys.readouterr().err
    conflict = ("--fact", "The capital of {} is", "France", "Rome")
    code, said = edited("edit", *conflict, "--dry-run", "--on-conflict", "error")
    assert (code, "1 conflict (error)" in said) == (1, True)


def test_rounds_of_one_command_conflict_too(edited):
    two = [word for city in ("Rome", "Nice") for word in ("--fact", "The capital of {} is", "Japan", city)]
    code, said = edited("edit", *two, "--round", 1, "--dry-run", "--json")
    assert code == 0
    assert json.loads(said)["conflicts"] == [{"prompt": "The capital of Japan is", "target": "Nice", "stands": "Rome"}]


def test_it_says_that_second_moments_are_still_to_be_measured(run, edited):
    fact = ("--fact", "The capital of {} is", "Japan", "Rome")
    assert "second moments" not in edited("edit", *fact, "--dry-run")[1]
    Path("other.yaml").write_text(Path("nse.yaml").read_text().replace("mom2_n_samples: 8", "mom2_n_samples: 7"))
    _, said = run("edit", "--hparams", "other.yaml", "--session", "other", *fact, "--dry-run")
    assert "second moments of this model are measured first" in said


def test_the_warnings_are_those_of_the_edit(edited, caplog, monkeypatch):
    monkeypatch.setattr("nse_plugin.replay.sinks.LONGER", 0.0)  # every subject at the beginning is at a sink
    said = []
    for more in (("--dry-run",), ()):
        caplog.clear()
        edited("edit", "--fact", "{} is", "Rome", "cold", *more)
        said.append([line for line in caplog.messages if "attention sink" in line])
    assert len(said[0]) == 1
    assert said[0] == said[1]
