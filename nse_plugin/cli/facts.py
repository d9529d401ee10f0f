"""`nse facts`: show what a file of facts may contain, and check one; no model is needed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_json
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands

    Rows = list[dict[str, str]]


EXAMPLE = (
    {
        "prompt": "The capital of {} is", "subject": "Japan", "target_new": "Kyoto", "target_true": "Tokyo",
        "rephrase_prompts": ["In Japan, the government sits in"],
        "locality_prompts": [["The capital of Italy is", "Rome"]],
    },
    {"prompt": "{} is located in", "subject": "The Eiffel Tower", "target_new": "Rome", "aliases": ["Tour Eiffel"]},
)  # fmt: skip


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "facts",
        help="check a file of facts, or show what one may hold",
        epilog="Exit code of `check`: 0 every record is a fact, and one round can take all of them; 1 some records are "
        "bad, or one round cannot take some of them together, or the file cannot be read; 2 a wrong command line.",
    )
    command.add_argument("what", nargs="?", choices=("check",), help="check: name every bad record of a file")
    command.add_argument("file", nargs="?", help="a .csv, .json or .jsonl file, or a known name such as demo")
    command.add_argument("--example", action="store_true", help="print the table of fields and a file of two facts")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns 1 if `check` found a bad record, or facts that one round cannot take together. Raises
    DatasetError, and ArgumentError if there is nothing to do."""
    if arguments.example:
        _show_example()
        return 0
    if arguments.what is None or arguments.file is None:
        raise argparse.ArgumentError(None, "give `check FILE`, or --example.")
    return _check(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from nse_plugin.cli.tables import print_json
    from nse_plugin.facts.files import DatasetError
    from nse_plugin.facts.files.check import FileCheck, check_file

    try:
        found = check_file(arguments.file)
    except DatasetError as error:  # the file as a whole
        if not arguments.json:
            raise
        found = FileCheck([], [(str(arguments.file), str(error))], [], None)
    fields = ("target_true", "rephrase_prompts", "locality_prompts")
    having = {field: sum(bool(getattr(fact, field)) for fact in found.facts) for field in fields}
    problems = [{"place": place, "problem": problem} for place, problem in found.problems]
    conflicts = [{"place": place, "conflict": conflict} for place, conflict in found.conflicts]
    if arguments.json:
        facts, largest = len(found.facts), found.largest_round
        print_json(
            {"facts": facts, "having": having, "problems": problems, "conflicts": conflicts, "largest_round": largest}
        )
    else:
        _print(problems, conflicts, found.largest_round)
        with_fields = ", ".join(f"{count} with {field}" for field, count in having.items())
        print(f"{number_of(len(found.facts), 'fact')} ({with_fields}); {number_of(len(problems), 'bad record')}.")
    return 1 if problems or conflicts else 0


def _print(problems: Rows, conflicts: Rows, largest_round: int | None) -> None:
    """Print the bad records, and the facts that one round cannot take together with what to do about them."""
    from nse_plugin.cli.tables import print_table

    if problems:
        print_table(problems, {"place": "where", "problem": "what is wrong"})
    if conflicts:
        print_table(conflicts, {"place": "where", "conflict": "what one round cannot take"})
        or_less = "" if largest_round == 1 else " or less"
        print(
            "One round cannot take two facts with one prompt and subject, and `nse edit` refuses it: leave one out, or "
            f"write them in different rounds with --round {largest_round}{or_less}, so that the later one corrects the "
            "earlier one.\n"
        )


def _show_example() -> None:
    from nse_plugin.cli.tables import print_table
    from nse_plugin.facts.fields import FIELDS

    rows = [
        {"field": field.name, "what": field.what, "for": field.needed_for, "json": field.in_json} for field in FIELDS
    ]
    print_table(rows, {"field": "field", "what": "what it is", "for": "needed for", "json": "in JSON"})
    print("A .jsonl file has a record a line (a .json file a list of them, a .csv file a column a field):\n")
    for record in EXAMPLE:
        print(json.dumps(record, ensure_ascii=False))
