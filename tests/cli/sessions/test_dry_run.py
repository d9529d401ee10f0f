"""`nse edit --dry-run` writes nothing."""

from __future__ import annotations

import json
from pathlib import Path


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
