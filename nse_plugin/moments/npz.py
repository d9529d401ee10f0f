"""Second moments as EasyEdit's npz files.

The path is `{stats_dir}/{model}/{corpus}_stats/{module}_{dtype}_mom2_{samples}.npz`, and the entries are `mom2.mom2`
(sum of k k^T), `mom2.count` and `sample_size`, as in EasyEdit and MEMIT. Files written here also record what they were
measured from; if such a file exists at the path but has another origin, it is not touched, and a hash of this model's
origin is inserted before `.npz`. EasyEdit's files have no such record and are identified by their path.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import zipfile
import zlib
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.identity import ModelIdentity, fingerprint
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.moments.cache_key import moment_cache_keys
from nse_plugin.moments.check import check_moments
from nse_plugin.moments.corpora import corpus_name
from nse_plugin.moments.measure import MomentsError, MomentSums
from nse_plugin.moments.storage import Identity, Stored, moments_folder, why_not_writable
from nse_plugin.support.files import written_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_UNREADABLE = (zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, OSError, EOFError)


class NpzFiles:
    """Moments as EasyEdit's npz files."""

    def __init__(
        self, layout: Layout, tokenizer: PreTrainedTokenizerBase | None, hparams: NSEHyperParams, text: str
    ) -> None:
        self._layout, self._tokenizer, self._hparams = layout, tokenizer, hparams
        self.unseen = ModelIdentity(layout.model).unseen
        self.identity: Identity = functools.cache(ModelIdentity(layout.model).full)
        self._text = text
        self._root = moments_folder(hparams)

    @property
    def folder(self) -> Path:
        return self.file(self._matrix(self._hparams.layers[0])).parent

    def names(self, layers: list[int]) -> dict[int, str]:
        assert self._tokenizer is not None  # only `file` works without a tokenizer
        addresses = moment_cache_keys(self.identity(None), self._tokenizer, self._hparams)
        return {layer: addresses[layer] for layer in layers}

    def read(self, layer: int) -> Stored | None:
        return _read(self.file(self._matrix(layer)), layer, self._matrix(layer))

    def stored(self, layer: int, sums: MomentSums) -> Stored:
        moment = self._total(layer, sums) / sums.tokens
        return Stored(check_moments({layer: moment}, {layer: self._matrix(layer)})[layer], sums.tokens)

    def write(self, layer: int, sums: MomentSums) -> Stored:
        matrix = self._matrix(layer)
        stored, path, total = self.stored(layer, sums), self.file(matrix), self._total(layer, sums)
        entries: dict[str, Any] = {
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "mom2.count": sums.tokens,
            "mom2.mom2": total.numpy(),
            "sample_size": self._hparams.mom2_n_samples,
            **{f"nse.{name}": value for name, value in self._origin(matrix)._asdict().items()},
        }
        try:
            with written_whole(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **entries)
        except OSError as error:
            log.warning("%s cannot be written (%s): these second moments are used, but not kept.", path, error)
        return stored

    def check_writable(self) -> None:
        problem = why_not_writable(self.folder)
        if problem:
            raise MomentsError(
                f"stats_dir = {str(self._root)!r} cannot be written to ({problem}), and second moments are to be "
                "measured into it: name another folder, or leave stats_dir out."
            )

    def file(self, matrix: OutputMatrix) -> Path:
        path = self._easyedit_path(matrix)
        if path.is_file() and (_origin_in(path) is None or self._is_of(path, matrix)):
            return path
        others = (f"*/{escape(path.parent.name)}/{escape(path.stem)}{end}" for end in (".npz", ".*.npz"))
        found = (
            other for pattern in others for other in sorted(self._root.glob(pattern)) if self._is_of(other, matrix)
        )
        free = path.with_suffix(f".{self._origin(matrix).mark}.npz") if path.is_file() else path
        return next(found, free)

    def _total(self, layer: int, sums: MomentSums) -> Tensor:
        return sums.sums[layer].cpu().to(getattr(torch, self._hparams.mom2_dtype))

    def _matrix(self, layer: int) -> OutputMatrix:
        return self._layout.output_matrix(layer)

    def _origin(self, matrix: OutputMatrix) -> _Origin:
        return _Origin(self.identity(None), str(matrix.weight.dtype), self._text)

    def _is_of(self, path: Path, matrix: OutputMatrix) -> bool:
        """Return whether a file was measured on this model, possibly in another precision, and on this text."""
        found = _origin_in(path)
        if self.unseen is not None or found is None or self._text not in (found.text, ""):
            return False
        dtype = getattr(torch, found.dtype.removeprefix("torch."), None)
        return found.model == self.identity(None if dtype == matrix.weight.dtype else dtype)

    def _easyedit_path(self, matrix: OutputMatrix) -> Path:
        hparams, layout = self._hparams, self._layout
        module = matrix.name.removesuffix(".weight")
        file = (
            Path(f"{corpus_name(hparams)}_stats") / f"{module}_{hparams.mom2_dtype}_mom2_{hparams.mom2_n_samples}.npz"
        )
        config: Any = layout.model.config
        name = str(getattr(config, "_name_or_path", "") or "").rstrip("/")
        if not name:
            embeddings = layout.model.get_input_embeddings().weight.data  # type: ignore[operator]
            name = f"{config.model_type}-{fingerprint(embeddings)[:8]}"
        underscored = self._root / name.replace("/", "_") / file  # as in ROME and MEMIT
        return underscored if underscored.is_file() else self._root / name.split("/")[-1] / file


class _Origin(NamedTuple):
    """What moments were measured from.

    model: `ModelIdentity.full`. dtype: the dtype of the edited matrix. text: `corpus_identity`; "" if the corpus file
    no longer exists.
    """

    model: str
    dtype: str
    text: str

    @property
    def mark(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


def _origin_in(path: Path) -> _Origin | None:
    """Read the origin that a file records; None if the file is EasyEdit's or cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if not any(name.startswith("nse.") for name in data.files):
                return None
            return _Origin(*(str(data[f"nse.{name}"]) if f"nse.{name}" in data else "?" for name in _Origin._fields))
    except _UNREADABLE:
        return None


def _read(path: Path, layer: int, matrix: OutputMatrix) -> Stored | None:
    """Read the moments of a file; None if the file does not exist. Raises MomentsError if they are not usable."""
    if not path.is_file():
        return None
    remedy = "delete the file to have it measured again"
    try:
        with np.load(path, allow_pickle=False) as data:
            tokens = float(data["mom2.count"])
            total = torch.from_numpy(data["mom2.mom2"])
    except _UNREADABLE as error:
        raise MomentsError(f"{path} is not a readable second-moment file ({error}): {remedy}.") from error
    if not tokens > 0:
        raise MomentsError(f"{path} has a count of {tokens} tokens: {remedy}.")
    try:
        moment = check_moments({layer: total / tokens}, {layer: matrix})[layer]
    except MomentsError as error:
        raise MomentsError(f"{path}: {error}") from None
    return Stored(moment, tokens)
