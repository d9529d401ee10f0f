"""Two runs on one folder: the second says that it waits, and continues when the first has finished."""

from __future__ import annotations

import subprocess
import sys
import threading

from nse_plugin.experiments.run.locks import alone

HOLD = """
import sys
from pathlib import Path
from nse_plugin.experiments.run.locks import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_first_is_told_nothing(tmp_path):
    waits: list[int] = []
    with alone(tmp_path / "deep" / "lock", lambda: waits.append(1)):
        pass
    with alone(tmp_path / "deep" / "lock", lambda: waits.append(1)):
        pass
    assert waits == []


def test_the_second_says_that_it_waits(tmp_path):
    path = tmp_path / "lock"
    waiting, through = threading.Event(), threading.Event()

    def second() -> None:
        with alone(path, waiting.set):
            through.set()

    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(20)
        assert not through.is_set()
        first.stdin.close()
        assert through.wait(20)
        thread.join()
