"""`nse ...` in its own process, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PYTHON = sys.executable


def started(arguments: list[str], home: Path, **more: Any) -> subprocess.Popen[str]:
    """Start `nse` with these arguments; its standard output and error are one stream.

    home: the user's cache. more: further arguments of `subprocess.Popen`. If a test has replaced `sys.executable`, the
    command starts its own processes with the replacement.
    """
    # Background jobs of a shell, and all that they start, ignore Ctrl-C. This program must not.
    program = (
        f"import signal, sys; sys.executable = {sys.executable!r}; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from nse_plugin.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [PYTHON, "-c", program]
    environment = {**os.environ, "NSE_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [*command, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more
    )


def swept(settings: list[str], home: Path) -> str:
    """Run `nse sweep` and return what it prints."""
    with started(["sweep", "-m", *settings], home) as process:
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said
