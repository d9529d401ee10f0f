"""Only one process at a time can open a session's folder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tiny_sessions import base, opened

from nse_plugin.session import SessionError, read_rounds


def test_the_second_one_is_told_who_has_it(folder):
    model = base()
    with opened(folder, model), pytest.raises(SessionError, match=rf"is open in process {os.getpid()} on \S+ since 20"):
        opened(folder, base())
    command = """import pathlib, sys
from nse_plugin.session.folder.lock import SessionLock
lock = SessionLock(pathlib.Path(sys.argv[1]))
print(1, flush=True)
input()"""
    process = subprocess.Popen([sys.executable, "-c", command, str(folder)], stdin=-1, stdout=-1, text=True)
    assert process.stdout.readline() == "1\n"
    with pytest.raises(SessionError, match=rf"is open in process {process.pid} on"):
        opened(folder, base())
    assert len(read_rounds(folder)) == 5  # reading needs no lock
    process.kill()
    process.communicate()
    opened(folder, base()).close()
