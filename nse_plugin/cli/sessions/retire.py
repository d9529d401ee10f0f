"""`nse retire`: undo single facts of a session by repeating the rounds without them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_model, add_session
from nse_plugin.cli.sessions.opening import opened
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands
    from nse_plugin.facts import Fact
    from nse_plugin.session import RoundRecord


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
    from nse_plugin.session.report import KEPT

    with opened(arguments) as session:
        before = session.rounds
        again = session.retire(arguments.case_ids)
        after = session.rounds
    was, now = _statuses(before), _statuses(after)
    retired = [fact for fact in was if fact not in now]
    for fact in retired:
        print(f"retired: {_described(fact)}")
    for fact, status in now.items():
        if was[fact] == KEPT != status:
            print(f"written now, as what it conflicted with is gone: {_described(fact)}")
    rounds = f"{len(after)} of {number_of(len(before), 'round')} left"
    print(f"{number_of(len(retired), 'fact')} retired; {number_of(len(again), 'round')} made again, {rounds}.")


def _statuses(rounds: Sequence[RoundRecord]) -> dict[Fact, str]:
    return {fact: status for one in rounds for fact, status in zip(one.facts, one.statuses, strict=True)}


def _described(fact: Fact) -> str:
    return f"{fact.text} -> {fact.target_new} ({fact.case_id})"
