"""The benchmark of a few facts in a new process: checkouts take turns, and the first process of each is not counted."""

from __future__ import annotations

import ast

import pytest

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
    (tmp_path / "older" / "nse_plugin").mkdir(parents=True)
    assert new_process.main([str(tmp_path / "older"), "--samples", "20", "--facts", "10"]) == 0
    this, other, ratio = capsys.readouterr().out.splitlines()
    assert this.split()[:3] == ["this", "3.00", "CPU"]
    assert "(6.00, 6.00, 6.00)" in other
    assert ratio == "other / this: 2.00"


def test_alone_there_is_no_ratio(monkeypatch, capsys):
    monkeypatch.setattr(new_process, "PROGRAM", PROGRAM)
    assert new_process.main(["--samples", "20", "--facts", "10"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("this")


def test_another_folder_is_no_checkout(tmp_path, capsys):
    """Python would import the installed package instead."""
    with pytest.raises(SystemExit):
        new_process.main([str(tmp_path)])
    assert f"{tmp_path} is no checkout" in capsys.readouterr().err


def test_the_program_imports_what_there_is():
    imports = [node for node in ast.parse(new_process.PROGRAM).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imports) == 3
    exec(compile(ast.Module(imports, []), "program", "exec"), {})
