"""Progress of the methods as lines: changes at once, the rest from time to time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from nse_plugin.experiments.run import follow as module
from nse_plugin.experiments.run.follow import follow


@pytest.fixture
def clock(monkeypatch):
    """Seconds, set by hand."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_lines_without_a_terminal(clock, capsys):
    with follow(Console(force_terminal=False), 100) as followed:
        followed.update("NSE", {"doing": "loading the model"})
        for edits in range(0, 60, 10):  # a round in 12 seconds
            followed.update("NSE", {"doing": "editing", "edits": edits})
            clock.seconds += 12
        followed.update("MEMIT", {"doing": "waiting for another run on this folder"})
        followed.update("NSE", {"doing": "measuring", "edits": 60})
        followed.update("NSE", {"doing": "failed"})
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "NSE: loading the model",
        "NSE: editing, 0 of 100 facts",
        "NSE: editing, 30 of 100 facts, about 84 s left",
        "MEMIT: waiting for another run on this folder",
        "NSE: measuring, 60 of 100 facts, about 48 s left",
        "NSE: failed",
    ]


def test_time_left_is_by_the_pace_of_this_run(clock, capsys):
    followed = follow(Console(force_terminal=False), 100)
    followed.update("NSE", {"doing": "editing", "edits": 80})  # the rest is of an earlier run
    clock.seconds = 60.0
    followed.update("NSE", {"doing": "editing", "edits": 90})
    assert capsys.readouterr().err.splitlines()[-1] == "NSE: editing, 90 of 100 facts, about 60 s left"


def test_time_left_leaves_out_what_is_done_once(clock, capsys):
    followed = follow(Console(force_terminal=False), 100)
    followed.update("NSE", {"doing": "loading the model"})
    clock.seconds = 5.0
    followed.update("NSE", {"doing": "editing", "edits": 0})
    followed.update("NSE", {"doing": "measuring second moments of layers [2, 3]"})
    clock.seconds = 605.0
    followed.update("NSE", {"doing": "editing", "edits": 0})
    clock.seconds = 645.0
    followed.update("NSE", {"doing": "editing", "edits": 10})
    assert capsys.readouterr().err.splitlines() == [
        "NSE: loading the model",
        "NSE: editing, 0 of 100 facts",
        "NSE: measuring second moments of layers [2, 3]",
        "NSE: editing, 0 of 100 facts",
        "NSE: editing, 10 of 100 facts, about 6 min left",
    ]


def test_bars_on_a_terminal(capsys):
    console = Console(force_terminal=True, width=120)
    with follow(console, 10) as followed:
        followed.update("NSE", {"doing": "editing", "edits": 5})
    said = capsys.readouterr()
    assert "5/10" in said.out
    assert said.err == ""
