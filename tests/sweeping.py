"""`nse sweep` in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def swept(settings: list[str], home: Path) -> str:
    """What it prints. home: the user's cache."""
    command = [sys.executable, "-c", "import sys; from nse_plugin.cli import main; sys.exit(main(sys.argv[1:]))"]
    environment = {**os.environ, "NSE_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [*command, "sweep", "-m", *settings], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
