"""The command line."""

from __future__ import annotations

import pytest

from benchmarks import __main__ as command


def test_a_misspelt_name_is_said_before_anything_is_loaded(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", "values,solves"])
    monkeypatch.setattr(command, "Setting", None)
    with pytest.raises(SystemExit):
        command.main()
    assert "--only solves: choose among values, keys, solve" in capsys.readouterr().err


def test_a_quick_run_keeps_nothing(roomy, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(command.Setting, "smollm2", classmethod(lambda cls: roomy))
    monkeypatch.setattr(command, "QUICK", command.Plan(repeats=1, most=2))
    monkeypatch.setattr(command.show, "keep", lambda *_: pytest.fail("kept"))
    monkeypatch.setattr(command.trend, "record", lambda *_: pytest.fail("recorded"))
    monkeypatch.delenv("AUTHORS_NSE", raising=False)
    monkeypatch.setattr("sys.argv", ["benchmarks", "--quick", "--only", "keys,solve"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert "set AUTHORS_NSE to a clone" in printed
    assert "residuals" in printed
    assert "solve, p = 1" in printed
