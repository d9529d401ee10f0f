"""Plain progress lines without a terminal: early, at intervals, and none for quick work."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from nse_plugin.support import progress
from nse_plugin.support.progress import bar, duration


def test_quick_work_says_nothing(capfd):
    with bar("facts", 3) as advance:
        advance(3)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "QUICK", 0.1)
    monkeypatch.setattr(progress, "EVERY", 0.2)


def test_long_work_says_how_far_it_is(impatient, capfd):
    with bar("tokens", 4_000) as advance:
        advance(1_000)  # of an earlier run
        for _ in range(3):
            time.sleep(0.25)
            advance(1_000)
    begun, *meanwhile, end = capfd.readouterr().err.splitlines()
    assert begun == "tokens: 1,000 of 4,000, begun"
    assert 2 <= len(meanwhile) <= 4
    assert all(line.startswith("tokens: ") for line in meanwhile)
    assert "tokens: 3,000 of 4,000, about 0 s left" in meanwhile
    assert end == "tokens: 4,000 of 4,000, done in 1 s"


def test_a_sign_of_life_before_the_first_advance_and_without_a_total(impatient, capfd):
    with bar("bytes", None) as advance:
        time.sleep(0.4)
        advance(2_048)
    assert capfd.readouterr().err.splitlines() == [
        "bytes: 0, begun",
        "bytes: 0, 0 s so far",
        "bytes: 2,048, done in 0 s",
    ]


def test_work_that_fails_is_not_called_done(impatient, capfd):
    def fail():
        with bar("bytes", 10):
            time.sleep(0.15)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err.splitlines()[-1] == "bytes: 0 of 10, stopped after 0 s"


def test_a_terminal_has_its_bar():
    """In a pseudo-terminal, whose lines are redrawn."""
    main, other = os.openpty()
    program = "from nse_plugin.support.progress import bar\nwith bar('facts', 2) as advance: advance(1)"
    process = subprocess.run(
        [sys.executable, "-c", program], stderr=other, env={**os.environ, "TERM": "xterm"}, check=True
    )
    os.close(other)
    said = os.read(main, 65536).decode()
    assert process.returncode == 0
    assert "facts" in said
    assert "\x1b[" in said
    assert "1/2" in said


def test_durations_in_words():
    assert [duration(seconds) for seconds in (0.4, 89, 90, 600, 5_400, 9_000)] == [
        "0 s", "89 s", "2 min", "10 min", "1.5 h", "2.5 h",
    ]  # fmt: skip
