"""`nse check`: check whether every fact of a session holds, on the current model or in llama.cpp."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nse_plugin.cli.options import NOT_ALL, add_json, add_model, add_session
from nse_plugin.cli.sessions.opening import opened
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands
    from nse_plugin.facts import Fact
    from nse_plugin.session import RoundRecord

COLUMNS = {
    "case_id": "case", "prompt": "prompt", "target": "target", "holds": "holds", "probability": "P now",
    "probability_after_round": "P then", "round": "round", "overwritten_by": "overwritten by",
}  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "check",
        help="does every fact of a session hold, on the model or in llama.cpp?",
        epilog="Exit code: 0 every fact holds that no later one has replaced; 3 some do not; 1 none could be asked.",
    )
    add_model(command, required=False)
    add_session(command)
    command.add_argument("--served", metavar="FILE", help="ask llama.cpp for the facts, of this GGUF file (xllamacpp)")
    command.add_argument("--adapter", metavar="FILE", help="with --served: the GGUF adapter to load with it")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns `NOT_ALL` if a fact does not hold that no later one has replaced. Raises SessionError,
    PatchError."""
    from nse_plugin.cli.tables import print_json, print_table

    rows = _served(arguments) if arguments.served else _here(arguments)
    lost = [row for row in rows if not row["holds"] and not row.get("replaced")]
    if arguments.json:
        print_json(rows)
    else:
        print_table(rows, _SERVED if arguments.served else COLUMNS)
        held = sum(bool(row["holds"]) for row in rows)
        replaced = sum(bool(row.get("replaced")) for row in rows)
        later = f"; {number_of(replaced, 'fact')} replaced by a later one" if replaced else ""
        print(f"{held} of {number_of(len(rows), 'fact')} hold{later}.")
    return NOT_ALL if lost else 0


_SERVED = {"case_id": "case", "prompt": "prompt", "target": "target", "holds": "holds", "answer": "llama.cpp says"}


def _here(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from nse_plugin.cli.tables import records

    if arguments.model is None:
        raise argparse.ArgumentError(None, "give --model, or --served FILE to ask llama.cpp.")
    with opened(arguments) as session:
        replaced = _replaced(session.rounds)
        rows = records(session.check())
    for row in rows:
        row["replaced"] = (row["round"], row["prompt"], row["target"]) in replaced
        row["overwritten_by"] = ", ".join(map(str, row["overwritten_by"])) or None
    return rows


def _served(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from nse_plugin.patch.served.check import check_served
    from nse_plugin.session.folder.opening import read_rounds

    standing = {fact.question: fact for _, fact in _written_facts(read_rounds(arguments.session))}
    found: list[dict[str, Any]] = check_served(arguments.served, list(standing.values()), arguments.adapter)
    return found


def _replaced(rounds: Sequence[RoundRecord]) -> set[tuple[int, str, str]]:
    """Return round, prompt and target of the facts to which a later round gave another target."""
    written = list(_written_facts(rounds))
    last = {fact.question: fact.target_new for _, fact in written}
    return {(number, fact.text, fact.target_new) for number, fact in written if last[fact.question] != fact.target_new}


def _written_facts(rounds: Sequence[RoundRecord]) -> Iterator[tuple[int, Fact]]:
    """Yield the facts that the rounds wrote, in order, each with its round's number. Facts that were not written,
    because an earlier fact was kept or the value was not finite, are left out."""
    for one in rounds:
        for fact in one.written:
            yield one.number, fact
