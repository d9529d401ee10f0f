"""`nse ability`: measure what else a model can do, before and after editing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli.options import (
    add_model,
    check_device,
    checked_config,
    say_at_once,
)

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


LOG_WIDTH = 240  # columns of a table if there is no terminal


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("ability", help="what else a model can do, before it was edited and after")
    add_model(command)
    command.add_argument("--edited", nargs="+", default=[], metavar="DIR", help="folders of edited models, if any")
    tasks = "of lm-evaluation-harness, e.g. mmlu,hellaswag; or `paper`: those of the NSE paper, 100 items each"
    command.add_argument("--tasks", default="", help=tasks)
    form = "JSON lists of question, subject, choices (four) and answer (0 to 3); no network is needed"
    command.add_argument("--questions", nargs="+", default=[], metavar="FILE", help=form)
    command.add_argument("--limit", type=int, help="at most N items of each, evenly spaced; default: all", metavar="N")
    command.add_argument(
        "--out", type=Path, default=Path("results/ability"), help="folder for the tables (%(default)s)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from rich.console import Console

    from nse_plugin.experiments.plan import ModelChoice
    from nse_plugin.experiments.plan.model import source_name
    from nse_plugin.experiments.run.ability import AbilityTasks, ability, ability_table, edited_folders

    checked_config(arguments)
    check_device(arguments)
    model = ModelChoice(source_name(arguments.model), arguments.model, arguments.dtype, arguments.device)
    edited = edited_folders(arguments.edited)
    tasks = [name.strip() for name in arguments.tasks.split(",") if name.strip()]
    ability_tasks = AbilityTasks.of(tasks, arguments.questions, arguments.limit)
    frame = ability(model, edited, ability_tasks, arguments.out, report_progress=say_at_once)
    # In a log, the table is as wide as it needs to be.
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(ability_table(frame))
    print(arguments.out / "ability.csv")
