"""`nse view`: a session as one HTML page; with a model, the page has its current answers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_model
from nse_plugin.cli.sessions.opening import opened

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "view",
        help="a session as one HTML page: rounds, facts, what replaced what, size of the changes",
        epilog="With --model the page shows whether each fact holds on the model now, and what the model writes after "
        "its prompt before and after the edits; without, how each fact was after its round.",
    )
    command.add_argument("session", metavar="DIR", help="the session's folder")
    add_model(command, required=False)
    command.add_argument("--out", type=Path, metavar="FILE", help="the page; it is replaced; default: DIR.html")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises SessionError, ValueError, ImportError, OSError."""
    from nse_plugin.session.page.facts import ask
    from nse_plugin.session.page.html import default_path, write_page

    out = arguments.out or default_path(arguments.session)
    if arguments.model is None:
        write_page(arguments.session, out)
    else:
        with opened(arguments) as session:
            write_page(arguments.session, out, ask(session))
    print(out)
