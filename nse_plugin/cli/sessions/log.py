"""`nse log`: the rounds of a session; no model is needed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_json, add_session
from nse_plugin.cli.sessions.opening import ROUND_COLUMNS, fact_rows, row_of
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("log", help="the rounds of a session: when, who, why, and which facts")
    add_session(command)
    command.add_argument("--facts", action="store_true", help="list the facts of each round")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises SessionError."""
    from nse_plugin.cli.tables import print_json, print_table
    from nse_plugin.session.folder.opening import read_rounds

    rounds = read_rounds(arguments.session)
    if arguments.json:
        print_json([{**row_of(one), "id": one.id, "facts": fact_rows(one.facts, one.report)} for one in rounds])
        return
    print_table([row_of(one) for one in rounds], ROUND_COLUMNS)
    for one in rounds if arguments.facts else ():
        facts = zip(one.facts, one.statuses, strict=True)
        rows = [
            {"case": fact.case_id, "prompt": fact.text, "target": fact.target_new, "status": status}
            for fact, status in facts
        ]
        print_table(rows, {name: name for name in rows[0]}, title=f"round {one.number}")
    count = sum(len(one.facts) for one in rounds)
    print(f"{number_of(len(rounds), 'round')}, {number_of(count, 'fact')}.")
