"""`nse tune`: find hyperparameters of NSE for a model that has no preset."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli.options import (
    add_model,
    add_skip_bad,
    check_chat,
    check_counts,
    check_device,
    checked_config,
    say_at_once,
)

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser(
        "tune",
        help="hyperparameters of NSE for a model that has no preset, as a YAML file",
        epilog="What cannot be cut short is done whatever the budget: second moments, one setting at least, and the "
        "last score on facts that were held out. The same command goes on where it was stopped, and with a larger "
        "--budget where it had no more time: what lies in --out is read again.",
    )
    add_model(command)
    facts = "a .csv, .json or .jsonl file, or a known name such as counterfact: 16 facts or more with rephrase and "
    command.add_argument(
        "--facts", required=True, help=facts + "locality prompts; a third of them, 40 at most, is held out"
    )
    add_skip_bad(command)
    command.add_argument("--budget", default="30m", help="time to spend, e.g. 90s, 30m or 2h (%(default)s)")
    command.add_argument("--round", type=int, default=10, help="facts written at a time (%(default)s)")
    form = "write facts, and ask them, as a user's message in the chat template (NAME: one of several); both: in plain "
    command.add_argument("--chat", nargs="?", const=True, default=False, metavar="NAME|both", help=form + "text too")
    command.add_argument("--out", type=Path, help="folder of the YAML; default: results/tune/<the model's name>")
    command.set_defaults(run=run, goes_on=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from nse_plugin.experiments.plan import ModelChoice
    from nse_plugin.experiments.plan.model import source_name
    from nse_plugin.experiments.run.tune import tune

    seconds = _seconds(arguments.budget)
    checked_config(arguments)
    check_device(arguments)
    check_counts(arguments, "round")
    check_chat(arguments)
    model = ModelChoice(source_name(arguments.model), arguments.model, arguments.dtype, arguments.device)
    written = tune(
        model,
        arguments.facts,
        seconds=seconds,
        out=arguments.out or Path("results/tune") / model.name,
        round_size=arguments.round,
        skip_bad=arguments.skip_bad,
        chat=arguments.chat,
        report_progress=say_at_once,
    )
    print(written)


def _seconds(budget: str) -> float:
    unit = {"s": 1, "m": 60, "h": 3600}.get(budget[-1:])
    try:
        seconds = float(budget[:-1]) * unit if unit else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--budget {budget}: write a number above 0 and its unit, e.g. 90s, 30m or 2h.")
    return seconds
