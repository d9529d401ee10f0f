"""`nse retire`: undo single facts of a session by repeating the rounds without them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_model, add_session
from nse_plugin.cli.sessions.opening import opened
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "retire", help="undo single facts: the rounds are made again without them, all or none"
    )
    add_model(command)
    add_session(command)
    command.add_argument("case_ids", nargs="+", metavar="CASE_ID", help="as `nse log --facts` lists them")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises FactError, SessionError."""
    with opened(arguments) as session:
        before = len(session.rounds)
        again = session.retire(arguments.case_ids)
        print(
            f"{number_of(len(arguments.case_ids), 'fact')} retired; {number_of(len(again), 'round')} made again, "
            f"{len(session.rounds)} of {before} stand."
        )
