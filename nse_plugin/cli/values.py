"""`nse values`: compute values z for all future rounds, and write them to a store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from nse_plugin.cli.options import (
    add_model,
    add_skip_bad,
    check_chat,
    check_counts,
    check_device,
    checked_config,
)
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.support.suggestions import number_of

if TYPE_CHECKING:
    from nse_plugin.cli.options import Commands


def add(commands: Commands) -> None:
    """Add the command and its options. commands: argparse's subparsers."""
    command = commands.add_parser("values", help="compute values z into a store, for all rounds to come (Ray)")
    add_model(command)
    command.add_argument("--hparams", help="a preset's name or a YAML/JSON file; default: the preset for the model")
    command.add_argument("--facts", required=True, help="a .csv, .json or .jsonl file, or a known name such as demo")
    add_skip_bad(command)
    command.add_argument("--limit", type=int, help="the first N facts; default: all", metavar="N")
    form = "of facts that are to be written in a chat, as a user's message: NAME is one of several chat templates"
    command.add_argument("--chat", nargs="?", const=True, default=False, metavar="NAME", help=form)
    command.add_argument(
        "--store", type=Path, required=True, help="the folder, of this machine; workers need not see it"
    )
    command.add_argument("--workers", type=int, default=2, help="processes that load the model (%(default)s)")
    command.add_argument("--address", help="of a Ray cluster, e.g. ray://host:10001 or auto; default: this machine")
    command.set_defaults(run=run, goes_on=True)


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from nse_plugin.cluster.pool import workers
    from nse_plugin.cluster.values import fill_store
    from nse_plugin.facts.files import load_facts
    from nse_plugin.store import Store

    check_counts(arguments, "limit", "workers")
    if arguments.address is None:  # with an address, the model need not be on this machine
        checked_config(arguments)
    check_device(arguments, elsewhere=arguments.address is not None)
    facts = load_facts(arguments.facts, arguments.limit, arguments.skip_bad).facts
    hparams = NSEHyperParams.from_hparams(arguments.hparams) if arguments.hparams else None
    if arguments.chat:
        hparams = _in_chat(hparams, arguments)
    count = arguments.workers
    with workers(count, arguments.address, arguments.model, arguments.dtype, arguments.device, hparams) as pool:
        filled = fill_store(Store(arguments.store), facts, pool)
    for text in filled.failed:
        print(f"not finite, not kept: {text}", file=sys.stderr)
    print(
        f"{number_of(len(facts), 'value')}: {filled.computed} computed by {number_of(count, 'worker')} in "
        f"{filled.seconds:.1f} s after {filled.seconds_loading:.1f} s of loading, {filled.read} read from the store."
        + _repeated(filled.repeated)
        + _shared(filled.shared)
    )


def _in_chat(hparams: NSEHyperParams | None, arguments: argparse.Namespace) -> NSEHyperParams:
    """Return the hyperparameters, by default the model's preset, with `chat` as given. Raises ValueError for `both`."""
    from nse_plugin.models.chat import BOTH

    if arguments.chat == BOTH:
        raise ValueError(
            "--chat both: what is written in plain text and in a chat shares a value that is made in its round, and "
            "nothing could be kept; give --chat, or leave it out."
        )
    config = checked_config(arguments)  # also needed if the workers are elsewhere: they get only the model's name
    check_chat(arguments)
    hparams = hparams or NSEHyperParams.for_model(SimpleNamespace(config=config))
    return hparams.with_overrides(chat=arguments.chat)


def _repeated(count: int) -> str:
    return f" {number_of(count, 'fact')} {'is' if count == 1 else 'are'} there more than once." if count else ""


def _shared(count: int) -> str:
    them = "is about a subject of others or has" if count == 1 else "are about subjects of others or have"
    return f" {number_of(count, 'fact')} {them} several forms: their values are made in their rounds." if count else ""
