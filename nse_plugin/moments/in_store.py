"""Second moments in a `Store`, addressed by the hash of everything they are measured from."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import EDITABLE_DTYPES, Layout
from nse_plugin.moments.cache_key import moment_cache_keys
from nse_plugin.moments.check import check_moments
from nse_plugin.moments.corpora import corpus_name
from nse_plugin.moments.measure import MomentSums
from nse_plugin.moments.storage import Identity, Stored, why_not_writable
from nse_plugin.store import MOMENT, Store
from nse_plugin.support.files import cache_home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def stores_with_moments() -> list[Path]:
    """Return the existing stores with moments: the user's own, and all others that moments were measured into."""
    try:
        noted = _note_path().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        noted = []
    folders = [cache_home() / "moments", *map(Path, noted)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _note_path() -> Path:
    return cache_home() / "stores_with_moments.txt"


def _note(store: Path) -> None:
    """Add a store to the ones that `stores_with_moments` returns."""
    store = store.resolve()
    if store not in stores_with_moments():
        with contextlib.suppress(OSError), _note_path().open("a", encoding="utf-8") as stream:
            stream.write(f"{store}\n")


class InStore:
    """Moments in a store, addressed by the hash of everything they are measured from."""

    def __init__(
        self,
        layout: Layout,
        tokenizer: PreTrainedTokenizerBase,
        hparams: NSEHyperParams,
        folder: Path,
        identity: Identity,
    ) -> None:
        self._folder = folder
        self._store, self._hparams = Store(self._folder), hparams
        self._matrices = layout.output_matrices(hparams.layers)
        self.unseen = ModelIdentity(layout.model).unseen
        self.identity = identity
        self._addresses = functools.cache(lambda dtype: moment_cache_keys(identity(dtype), tokenizer, hparams))

    @property
    def folder(self) -> Path:
        return self._folder

    def names(self, layers: list[int]) -> dict[int, str]:
        return {layer: self._addresses(None)[layer] for layer in layers}

    def read(self, layer: int) -> Stored | None:
        """Read the moments of this model, or of the same model in another precision; None if there are none."""
        if self.unseen is not None or not any(self._folder.glob("??")):
            return None
        for dtype in (None, *EDITABLE_DTYPES):
            moment = self._store.get(self._addresses(dtype)[layer])
            if moment is not None:
                return Stored(check_moments({layer: moment}, {layer: self._matrices[layer]})[layer], float("nan"))
        return None

    def stored(self, layer: int, sums: MomentSums) -> Stored:
        moment = (sums.sums[layer].cpu().double() / sums.tokens).to(getattr(torch, self._hparams.mom2_dtype))
        return Stored(check_moments({layer: moment}, {layer: self._matrices[layer]})[layer], sums.tokens)

    def write(self, layer: int, sums: MomentSums) -> Stored:
        stored = self.stored(layer, sums)
        self.keep(layer, stored)
        _note(self.folder)
        return stored

    def keep(self, layer: int, stored: Stored) -> None:
        tokens = "" if math.isnan(stored.tokens) else f", {stored.tokens:.0f} tokens"
        about = f"layer {layer}, {corpus_name(self._hparams)}{tokens}"
        self._store.put_all([(self._addresses(None)[layer], stored.moment, MOMENT, about)])

    def check_writable(self) -> None:
        """Log a warning if the store is not writable. Raises StoreError if there is a file in place of its folder."""
        if self._hparams.store is not None:
            self._store.check_folder()
        problem = why_not_writable(self.folder)
        if problem:
            log.warning("store %s cannot be written to (%s): second moments are not kept.", self.folder, problem)
