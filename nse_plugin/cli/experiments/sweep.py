"""`nse sweep`: run NSE with many hyperparameters, computing z once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "sweep", help="NSE under many hyperparameters, z computed once (hydra)", add_help=False
    )
    command.set_defaults(run=run, goes_on=True, is_hydra=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the hydra application, always as a multirun."""
    from nse_plugin.experiments.run.sweep import sweep

    sweep(arguments.rest)
