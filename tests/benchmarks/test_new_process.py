"""The benchmark of a few facts in a new process: checkouts take turns, and the first process of each is not counted."""

from __future__ import annotations

import ast

from benchmarks import new_process

# Writes down how it was called, and takes 100 s the first time with its cache and 3 or 6 s later.
PROGRAM = """
import os, pathlib, sys
home = pathlib.Path(os.environ["NSE_HOME"])
assert pathlib.Path(sys.argv[1]).read_text() and sys.argv[2:] == ["20", "10"] and os.environ["OMP_NUM_THREADS"] == "1"
first = not home.exists()
home.mkdir(exist_ok=True)
print(100 if first else 6 if os.environ["PYTHONPATH"].endswith("older") else 3)
"""


def test_the_first_process_of_each_checkout_is_not_counted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(new_process, "PROGRAM", PROGRAM)
    assert new_process.main([str(tmp_path / "older"), "--samples", "20", "--facts", "10"]) == 0
    this, other, ratio = capsys.readouterr().out.splitlines()
    assert this.split()[:3] == ["this", "3.00", "CPU"]
    assert "(6.00, 6.00, 6.00)" in other
    assert ratio == "other / this: 2.00"


def test_alone_there_is_no_ratio(monkeypatch, capsys):
    monkeypatch.setattr(new_process, "PROGRAM", PROGRAM)
    assert new_process.main(["--samples", "20", "--facts", "10"]) == 0
    assert "this" in capsys.readouterr().out.splitlines()[0]


def test_the_program_uses_public_names_that_exist():
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(new_process.PROGRAM))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert imported == {
        "nse_plugin.EditSession", "nse_plugin.Fact", "nse_plugin.NSEHyperParams",
        "nse_plugin.models.embedded.embedded_model",
    }  # fmt: skip
