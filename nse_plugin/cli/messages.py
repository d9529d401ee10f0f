"""Errors in the words of the command line."""

from __future__ import annotations

import argparse
import re

# What Python and hydra call a setting, and the shell an option.
_SHELL_WORDS = (
    (r"^limit (?:=|is) (\S+):", r"--limit \1:"),
    (r", or give None for all\b", ""),
    (r"^skip is (\S+):", r"--skip \1:"),
    (r"^workers = (\S+)", r"--workers \1"),
    (r"^out = ", "--out "),
    ("`out`", "`--out`"),
    (r"\bskip_bad leaves", "--skip-bad leaves"),
    (r"^objective = \[[^\]]*\]: none of the facts of (\S+) has", r"--facts \1: none of them has"),
    (r"pass at least layers=.*`nse tune` find both", "give --hparams FILE.yaml, which `nse tune` writes"),
)


def in_shell_words(message: str, arguments: argparse.Namespace) -> str:
    if arguments.is_hydra:
        message = re.sub(r"(take \d+ or fewer), or all\b", r"\1, or facts=all for every one", message)
        return re.sub(r"\bskip_bad leaves", "data.skip_bad=true leaves", message)
    if getattr(arguments, "layers", None):
        message = re.sub(r"^layers = \[[^\]]*\]", f"--layers {arguments.layers}", message)
    for pattern, words in _SHELL_WORDS:
        message = re.sub(pattern, words, message)
    return message
