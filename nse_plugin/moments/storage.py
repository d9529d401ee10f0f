"""What every place has in common that second moments are kept in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.moments.measure import MomentSums
from nse_plugin.support.files import cache_home


def moments_folder(hparams: NSEHyperParams) -> Path:
    """Where second moments are kept: the store, or the stats_dir where there is one."""
    if hparams.stats_dir is not None:
        return Path(hparams.stats_dir).expanduser()
    return cache_home() / "moments" if hparams.store is None else Path(hparams.store).expanduser()


class Stored(NamedTuple):
    """tokens: how many they were measured from; NaN where that is not known."""

    moment: Tensor
    tokens: float


Identity = Callable[[torch.dtype | None], str]  # `ModelIdentity.full`, each dtype's read once


class Kept(Protocol):
    """Where moments are kept. unseen: of the model. names: a name for each layer's, which identifies what they are
    measured from. stored: what `write` writes, of the right shape and finite."""

    unseen: str | None
    identity: Identity

    @property
    def folder(self) -> Path: ...

    def read(self, layer: int) -> Stored | None: ...

    def stored(self, layer: int, sums: MomentSums) -> Stored: ...

    def write(self, layer: int, sums: MomentSums) -> Stored: ...

    def check_writable(self) -> None: ...

    def names(self, layers: list[int]) -> dict[int, str]: ...


def why_not_writable(folder: Path) -> str | None:
    """The system's error when a file is put into the folder; None when it can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return str(error)
