"""`nse compare`: methods side by side on the same facts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("compare", help="methods side by side on the same facts (hydra)", add_help=False)
    command.add_argument("--skip-bad", action="store_true")  # the same as data.skip_bad=true
    command.set_defaults(run=run, goes_on=True, is_hydra=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the hydra application. Its settings are `name=value`, and listed by `nse compare --help`."""
    from nse_plugin.experiments.run.application import compare

    compare([*arguments.rest, *(["data.skip_bad=true"] if arguments.skip_bad else [])])
