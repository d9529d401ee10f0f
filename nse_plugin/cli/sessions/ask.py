"""`nse ask`: what a model writes before and after the edits of a session."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_json, add_model, add_session, check_counts
from nse_plugin.cli.sessions.opening import opened

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("ask", help="how a model continues a prompt, before and after the edits")
    add_model(command)
    add_session(command)
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help="as it is; nothing is added")
    command.add_argument("--tokens", type=int, default=20, help="how many it may write (%(default)s)")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises SessionError, ValueError."""
    from nse_plugin.cli.tables import print_json, print_table
    from nse_plugin.session.answers import before_and_after

    check_counts(arguments, "tokens")
    with opened(arguments) as session:
        answers = before_and_after(session, arguments.prompts, arguments.tokens)
    rows = [
        {"prompt": prompt, "before": before, "after": after}
        for prompt, (before, after) in zip(arguments.prompts, answers, strict=True)
    ]
    if arguments.json:
        print_json(rows)
    else:
        print_table(rows, {"prompt": "prompt", "before": "before", "after": "after"})
