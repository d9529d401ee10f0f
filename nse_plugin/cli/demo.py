"""`nse demo`: edit an embedded model through EasyEdit, and measure it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("demo", help="edit an embedded model through EasyEdit, and measure it")
    command.add_argument(
        "--out", type=Path, default=Path("results/demo"), help="folder for tables and plot (%(default)s)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from nse_plugin.demo.run import run_demo

    run_demo(arguments.out)
