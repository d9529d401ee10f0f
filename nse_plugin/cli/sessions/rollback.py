"""`nse rollback`: undo the last rounds of a session; no model is needed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_session
from nse_plugin.cli.sessions.opening import ROUND_COLUMNS, row_of
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "rollback", help="undo and remove the last rounds of a session, as if they had never been made"
    )
    add_session(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--rounds", type=int, help="how many; default: 1")
    which.add_argument("--to", metavar="ID", help="the round to be the last one; the beginning of its id is enough")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises SessionError, ValueError."""
    from nse_plugin.cli.tables import print_table
    from nse_plugin.session.folder.opening import roll_back

    undone = roll_back(arguments.session, arguments.rounds, arguments.to)
    print_table([row_of(one) for one in undone], ROUND_COLUMNS)
    print(f"{number_of(len(undone), 'round')} undone. The next command opens the session without them.")
