"""Options that several commands share, and checks of their values."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # what `add_subparsers` returns

NOT_ALL = 3  # exit code if everything was done, but the model does not predict every fact's target


def add_model(command: argparse.ArgumentParser | argparse._ArgumentGroup, required: bool = True) -> None:
    """Add --model, --device and --dtype, for commands that load a model."""
    what = "folder or hub name of a causal language model, a GGUF file, or `embedded`"
    command.add_argument("--model", required=required, help=what)
    command.add_argument("--device", default="cpu", help="e.g. cpu, cuda:0, or cuda for a GPU a worker (%(default)s)")
    dtypes = ("float32", "float64", "bfloat16", "float16")
    command.add_argument("--dtype", default="float32", choices=dtypes, help="what the model is loaded in (%(default)s)")


def add_session(command: argparse.ArgumentParser) -> None:
    """Add --session, for commands on a session's folder."""
    command.add_argument("--session", required=True, metavar="DIR", help="the session's folder")


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json, for commands that print a table."""
    command.add_argument("--json", action="store_true", help="print JSON for other programs, not a table")


def add_skip_bad(command: argparse.ArgumentParser) -> None:
    """Add --skip-bad, for commands that read facts."""
    command.add_argument("--skip-bad", action="store_true", help="leave out malformed records")


def add_patch_file(command: argparse.ArgumentParser) -> None:
    """Add the argument `file`, for commands that read a patch."""
    command.add_argument("file", type=Path, help="the patch")


def add_new_out(command: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], what: str) -> None:
    """Add --out, and set the command to call `run` only if nothing is at this path. what: what is written there."""

    def run_if_new(arguments: argparse.Namespace) -> None:
        _check_new(arguments.out)
        run(arguments)

    command.add_argument("--out", type=Path, required=True, metavar="PATH", help=f"{what}; must not exist yet")
    command.set_defaults(run=run_if_new)


def _check_new(out: Path) -> None:
    from nse_plugin.support.files import file_in_the_way

    if os.path.lexists(out):
        raise ValueError(f"--out {out} is there already: name another.")
    if file := file_in_the_way(out.absolute()):
        raise ValueError(f"--out {out} cannot be made: {file} is a file; name another folder.")


def checked_config(arguments: argparse.Namespace) -> PretrainedConfig:
    """Return the model's configuration. Raises PlanError if there is no model."""
    from nse_plugin.experiments.plan.model import model_config

    return model_config(arguments.model, "--model")


def check_chat(arguments: argparse.Namespace) -> None:
    """Raise FactError if the model's tokenizer does not have the chat template that --chat asks for."""
    from nse_plugin.experiments.plan.model import model_tokenizer
    from nse_plugin.models.chat import chat_frame, template_of

    if arguments.chat is not False:
        given = template_of(arguments.chat)
        asked = "--chat is given" if given is None else f"--chat is {given}"
        chat_frame(model_tokenizer(arguments.model, "--model"), given, asked=asked, off="leave it out")


def check_device(arguments: argparse.Namespace, elsewhere: bool = False) -> None:
    """Raise ValueError if the device does not exist. elsewhere: the device is on another machine; only check its
    name."""
    import torch

    device = arguments.device
    if elsewhere:
        if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
            raise ValueError(f"--device {device}: there is no such device; give cpu, cuda, cuda:0 or mps.")
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{number}" for number in range(gpus))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    if device not in here:
        raise ValueError(f"--device {device}: there is no such device here; give {' or '.join(here)}.")


def check_counts(arguments: argparse.Namespace, *options: str) -> None:
    """Raise ValueError if one of these options is given and not above 0."""
    for option in options:
        count = getattr(arguments, option)
        if count is not None and count < 1:
            raise ValueError(f"--{option} {count}: give a number above 0.")


def say_at_once(line: str) -> None:
    """Print a line to standard error and flush it."""
    print(line, file=sys.stderr, flush=True)
