"""A worker's reports arrive whatever else is written to the same stream, and so does the end of the worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from queue import Queue

import pytest

from nse_plugin.experiments.run import channel
from nse_plugin.experiments.run.comparison import _Children

EDITING = """print('{"doing": "editing", "edits": 3}', flush=True)"""
DISTURBANCES = {
    "nothing": "pass",
    "a line of a C library": r"os.write(1, b'a warning\n')",
    "a line without its end": "os.write(1, b'a warning')",
    "bytes that are no UTF-8": r"os.write(1, b'caf\xe9 \xff\xfe\n')",
    "numbers and lists": r"""os.write(1, b'7\n[1, 2]\nnull\n"text"\n')""",
    "another object": r"""os.write(1, b'{"level": "info"}\n{"doing": 3}\n{"doing": "x", "edits": "y"}\n')""",
    "brackets without end": "os.write(1, b'[' * 200_000 + bytes([10]))",
    "megabytes without a line": "os.write(1, b'x' * 3_000_000)",
    "its output closed": "os.close(1)",
    "a child that holds the pipe": "os.fork() or time.sleep(60)",
    "a child that goes on writing": "os.fork() or [os.write(1, b'x' * 999 + bytes([10])) for _ in iter(int, 1)]",
    "killed": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
@pytest.mark.parametrize("text", [True, False])
def test_reports_and_the_end_arrive(disturbance, text):
    program = f"import os, time; {EDITING}\n{DISTURBANCES[disturbance]}"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=text, start_new_session=True
    ) as process:
        news: Queue = Queue()
        children = _Children.__new__(_Children)
        children._news = news
        started = time.monotonic()
        children._listen("NSE", process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
    assert time.monotonic() - started < 15
    assert list(news.queue) == [("NSE", {"doing": "editing", "edits": 3}), ("NSE", None)]


def test_fields_that_are_none_of_ours_are_left_out():
    program = """print('{"doing": "editing", "total": "x", "description": 5}')"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert list(channel.reports(process)) == [{"doing": "editing"}]


def test_an_end_is_told_even_when_listening_fails():
    children = _Children.__new__(_Children)
    children._news = Queue()
    with pytest.raises(AttributeError):
        children._listen("NSE", None)
    assert children._news.get_nowait() == ("NSE", None)


def test_only_reports_are_written_to_a_workers_output():
    program = """
import os, subprocess, sys
from nse_plugin.experiments.run import channel
own = channel.own_output()
print("printed")
os.write(1, b"of a C library\\n")
subprocess.run([sys.executable, "-c", "print('of a child')"])
channel.report(own, {"doing": "editing"})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == '{"doing": "editing"}\n'
    assert all(words in done.stderr for words in ("printed", "of a C library", "of a child"))


def test_a_parent_that_is_gone_is_noticed():
    program = (
        "from nse_plugin.experiments.run import channel\ninput()\nchannel.report(channel.own_output(), {'doing': 'x'})"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        process.stdout.close()
        process.stdin.write("it is closed\n")
        process.stdin.close()
        assert "BrokenPipeError" in process.stderr.read()
