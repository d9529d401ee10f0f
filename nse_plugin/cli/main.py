"""The command line; each command has its own module."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys

import nse_plugin
from nse_plugin.cli import demo, facts, models, moments, patch, store, values
from nse_plugin.cli.experiments import ability, compare, sweep, train_mend, tune
from nse_plugin.cli.sessions import ask, check, edit, log, retire, rollback, view

_COMMANDS = (
    demo, edit, log, check, rollback, retire, ask, view, patch, models, facts, moments, values, compare, sweep, tune,
    ability, train_mend, store,
)  # fmt: skip

# Replacements in error messages: settings as named in Python and hydra, by the shell's options.
_SHELL_WORDS = (
    (r"^limit (?:=|is) (\S+):", r"--limit \1:"),
    (r", or give None for all\b", ""),
    (r"^skip is (\S+):", r"--skip \1:"),
    (r"^workers = (\S+)", r"--workers \1"),
    (r"^out = ", "--out "),
    ("`out`", "`--out`"),
    (r"\bskip_bad leaves", "--skip-bad leaves"),
    (r"^objective = \[[^\]]*\]: none of the facts of (\S+) has", r"--facts \1: none of them has"),
    (r"^rounds = (\S+)", r"--rounds \1"),
    (r"^to = (\S+)", r"--to \1"),
    (r"\bleave hparams out\b", "leave --hparams and --solver out"),
    (r"use on_conflict='replace' or 'keep'", "use --on-conflict replace or keep"),
    (r"pass at least layers=.*`nse tune` find both", "give --hparams FILE.yaml, which `nse tune` writes"),
)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit code. Errors that a user can fix are printed in one line, without a
    traceback."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.rest = rest
    if arguments.rest and not arguments.is_hydra:
        parser.error(f"unrecognized arguments: {' '.join(arguments.rest)}")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("huggingface_hub").propagate = False  # it has its own handler, and the lines would appear twice
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' bars would fill a log
    try:
        return arguments.run(arguments) or 0
    except argparse.ArgumentError as error:  # what argparse itself cannot check
        command: argparse.ArgumentParser = arguments.parser
        command.error(error.message)
    except BrokenPipeError:  # `nse ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, ArithmeticError, OSError, RuntimeError, ImportError) as error:
        if arguments.traceback:
            raise
        print("nse:", _in_shell_words(" ".join(str(error).split()), arguments), file=sys.stderr)
        from nse_plugin.experiments.plan.checks import CommandLineError  # slow to import (0.1 s)

        return 2 if isinstance(error, CommandLineError) else 1
    except KeyboardInterrupt:
        print(
            "nse: stopped" + ("; the same command goes on from there." if arguments.goes_on else "."), file=sys.stderr
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nse",
        description="Neuron-level sequential editing of language models.",
        epilog="Exit code: 0 done; 1 not done as asked, or nothing came of it, or `store verify` found damage, or "
        "`patch verify` no edits; 2 a wrong command line; 3 done, and the model does not say every fact; "
        "130 stopped by Ctrl-C.",
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("--version", action="version", version=f"nse-plugin {nse_plugin.__version__}")
    parser.set_defaults(goes_on=False, is_hydra=False)
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in _COMMANDS:
        command.add(commands)
    for of_command in commands.choices.values():
        of_command.set_defaults(parser=of_command)
    return parser


def _in_shell_words(message: str, arguments: argparse.Namespace) -> str:
    if arguments.is_hydra:
        message = re.sub(r"(take \d+ or fewer), or all\b", r"\1, or facts=all for every one", message)
        return re.sub(r"\bskip_bad leaves", "data.skip_bad=true leaves", message)
    if getattr(arguments, "layers", None):
        message = re.sub(r"^layers = \[[^\]]*\]", f"--layers {arguments.layers}", message)
    for pattern, words in _SHELL_WORDS:
        message = re.sub(pattern, words, message)
    return message
