"""The common interface of the places in which second moments are saved."""

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
    """Return the folder for second moments: `stats_dir` if set, otherwise `store` or the user's own store."""
    if hparams.stats_dir is not None:
        return Path(hparams.stats_dir).expanduser()
    return cache_home() / "moments" if hparams.store is None else Path(hparams.store).expanduser()


class Stored(NamedTuple):
    """Saved second moments. moment: [f, f]. tokens: the number of tokens they were measured from; NaN if unknown."""

    moment: Tensor
    tokens: float


Identity = Callable[[torch.dtype | None], str]  # `ModelIdentity.full`, cached by dtype


class Kept(Protocol):
    """A place for saved moments. unseen: `ModelIdentity.unseen` of the model. names: the address of each layer's
    moments, which identifies what they are measured from. stored: convert sums to the moments that `write` saves, and
    check that they are finite and have the right shape."""

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
    """Return the system's error message if a file cannot be created in the folder; None if it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return str(error)
