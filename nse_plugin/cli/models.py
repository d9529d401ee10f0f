"""`nse models`: which types of models can be edited."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from nse_plugin.cli.options import add_json

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "models",
        help="list the model types that can be edited, as measured on small random models",
        description="Each type of causal language model in transformers: whether edits are exact (as in slow reference "
        "code, to 1e-8), how its rows are run, its edited matrix, or why it is refused.",
    )
    command.add_argument("type", nargs="*", help="only these types, the `model_type` in a model's config.json")
    command.add_argument("--transformers", metavar="VERSION", help="the table of this version of transformers")
    add_json(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises ValueError for a type or version that is not in the table."""
    from nse_plugin.cli.tested_types import measured_versions, nearest_version, read_types

    versions = measured_versions()
    version = arguments.transformers or nearest_version()
    if version not in versions:
        raise ValueError(f"--transformers {version}: there are tables for {' and '.join(versions)}.")
    types = read_types(version)
    unknown = [name for name in arguments.type if name not in {one.type for one in types}]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no causal language model of transformers {version}: give the `model_type` of a "
            "config.json."
        )
    chosen = [one for one in types if not arguments.type or one.type in arguments.type]
    if arguments.json:
        from nse_plugin.cli.tables import print_json

        print_json({"transformers": version, "types": [asdict(one) for one in chosen]})
        return
    from nse_plugin.cli.tables import print_table

    columns = {"type": "TYPE", "verdict": "VERDICT", "rows": "RUN AS", "about": "EDITED MATRIX, OR WHY NOT"}
    rows = [
        {**asdict(one), "about": one.why or one.w_out + " (name it: rewrite_module_tmp)" * one.named} for one in chosen
    ]
    print_table(rows, columns, title=f"Measured on transformers {version}")
    if not arguments.type:
        counts = Counter(one.verdict for one in types)
        whole = sum(one.rows == "whole rows" for one in types)
        print(
            f"{len(types)} types: {counts['exact']} exact ({whole} in whole rows), {counts['refused']} refused, "
            f"{counts['not measured']} not measured"
        )
