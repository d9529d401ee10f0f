"""The archive of a trained network: where it lies, and whether it can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nse_plugin.support.files import cache_home


class ArchiveError(RuntimeError):
    """No archive that MEND can use; the message names the command that makes one."""


def archive_path(hparams: Any) -> Path:
    """Where the archive of EasyEdit's `MENDHyperParams` lies: its `archive`, or `<cache>/mend/<model name>.pt`."""
    if hparams.archive:
        return Path(hparams.archive)
    return cache_home() / "mend" / f"{Path(hparams.model_name).name}.pt"


def check_archive(copy: Path, path: Path, hparams: Any) -> None:
    """Raise ArchiveError unless the copy of an archive holds tensors and plain values only, trained for these matrices.

    EasyEdit's main unpickles it afterwards; what passes here has nothing in it that runs.
    """
    try:
        trained_for = torch.load(copy, map_location="cpu", weights_only=True)["inner_params"]
    except Exception as error:
        raise ArchiveError(
            f"{path} is no archive of `nse train-mend` ({type(error).__name__}), and others are not opened, because "
            f"that may run code: {remedy(path, hparams)}"
        ) from error
    if trained_for != list(hparams.inner_params):
        raise ArchiveError(f"{path} was trained for inner_params {trained_for}: use those, or {remedy(path, hparams)}")


def remedy(path: Path, hparams: Any) -> str:
    """The end of a message: the command that makes an archive."""
    return f"run `nse train-mend --model {Path(hparams.model_name).name} --data FACTS.json --out {path}`."
