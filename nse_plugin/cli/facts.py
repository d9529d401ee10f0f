"""`nse facts`: show what a file of facts may contain, and check one; no model is needed."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_json
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


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
        epilog="Exit code of `check`: 0 every record is a fact; 1 some are not.",
    )
    command.add_argument("what", nargs="?", choices=("check",), help="check: name every record that is no fact")
    command.add_argument("file", nargs="?", help="a .csv, .json or .jsonl file, or a known name such as demo")
    command.add_argument("--example", action="store_true", help="print the table of fields and a file of two facts")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Returns 1 if `check` found a record that is not a fact. Raises DatasetError."""
    if arguments.example:
        _show_example()
        return 0
    if arguments.what is None or arguments.file is None:
        raise ValueError("give `check FILE`, or --example.")
    return _check(arguments)


def _check(arguments: argparse.Namespace) -> int:
    from nse_plugin.cli.tables import print_json, print_table
    from nse_plugin.facts.files import load_facts

    loaded = load_facts(arguments.file, skip_bad=True)
    facts, corrected = loaded.facts, loaded.corrected
    problems = [
        {"place": place, "problem": problem} for place, (_, problem) in zip(loaded.places, loaded.skipped, strict=True)
    ]
    fields = ("target_true", "rephrase_prompts", "locality_prompts")
    having = {field: sum(bool(getattr(fact, field)) for fact in facts) for field in fields}
    if arguments.json:
        print_json({"facts": len(facts), "having": having, "problems": problems, "corrections": corrected})
    else:
        if problems:
            print_table(problems, {"place": "where", "problem": "what is wrong"})
        for line in corrected:
            print(f"correction, {line}")
        with_fields = ", ".join(f"{count} with {field}" for field, count in having.items())
        print(f"{number_of(len(facts), 'fact')} ({with_fields}); {number_of(len(problems), 'bad record')}.")
    return 1 if problems else 0


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
