"""The archive of a trained network: its path, and whether it can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nse_plugin.support.files import cache_home


class ArchiveError(RuntimeError):
    """There is no archive that MEND can use; the message names the command that makes one."""


def archive_path(hparams: Any) -> Path:
    """Return the archive's path for EasyEdit's `MENDHyperParams`: its `archive`, or `<cache>/mend/<model name>.pt`."""
    if hparams.archive:
        return Path(hparams.archive)
    return cache_home() / "mend" / f"{Path(hparams.model_name).name}.pt"


def check_archive(copy: Path, path: Path, hparams: Any) -> None:
    """Raise ArchiveError unless the copy of an archive has only tensors and plain values and was trained for
    `inner_params`.

    EasyEdit's main unpickles the archive afterwards; an archive that passes contains nothing that can be executed.
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
    """Return the end of an error message: the command that makes an archive."""
    return f"run `nse train-mend --model {Path(hparams.model_name).name} --data FACTS.json --out {path}`."
