"""`nse train-mend`: train MEND's network for a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nse_plugin.cli.options import (
    add_skip_bad,
    check_counts,
)

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("train-mend", help="train MEND's network for a model, with EasyEdit's trainer")
    command.add_argument("--model", required=True, help="a model's name in hparams/MEND, e.g. smollm2-135m")
    command.add_argument(
        "--source", help="folder or hub name of that model; default: where `nse compare` takes it from"
    )
    command.add_argument(
        "--data", default="counterfact", help="facts to learn from: a file or a known name (%(default)s)"
    )
    add_skip_bad(command)
    command.add_argument(
        "--skip", type=int, default=2000, help="first facts left out, to be edited later (%(default)s)"
    )
    command.add_argument("--train", type=int, default=500, help="facts to learn from (%(default)s)")
    command.add_argument("--val", type=int, default=20, help="facts to choose the best step by (%(default)s)")
    command.add_argument("--steps", type=int, help="default: max_iters of the hyperparameters")
    command.add_argument("--out", type=Path, help="the archive; default: where MEND's hyperparameters look for it")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command. Raises ValueError if the model of --source does not have the named model's shape."""
    from nse_plugin.baselines.hparams import load_hparams
    from nse_plugin.baselines.mend import train_mend
    from nse_plugin.experiments.plan.model import model_config, shape_of, tuned_name
    from nse_plugin.experiments.run.comparison import configured_model
    from nse_plugin.facts.files import load_facts
    from nse_plugin.hparams.files import preset_path
    from nse_plugin.models.loading import load

    check_counts(arguments, "train", "val", "steps")
    preset = preset_path("MEND", arguments.model)
    facts = load_facts(arguments.data, arguments.train + arguments.val, arguments.skip_bad, skip=arguments.skip).facts
    choice = configured_model(arguments.model)
    config = model_config(arguments.source or choice.source, "--source")
    if tuned_name(config) != arguments.model:
        raise ValueError(f"--source {arguments.source} is {shape_of(config)}, another shape than {arguments.model}'s.")
    model, tokenizer = load(arguments.source or choice.source, choice.dtype, choice.device)
    hparams = load_hparams("MEND", preset, {}, model)
    trained = train_mend(
        model, tokenizer, facts[: arguments.train], facts[arguments.train :], hparams, arguments.out, arguments.steps
    )
    accuracy = trained.validation["edit/acc_val"]
    print(f"{trained.path}: best after step {trained.step}, where it edits {accuracy:.0%} of the validation facts.")
