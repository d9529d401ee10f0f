"""Second moments C0, found or measured, and kept for the next time.

Where they are kept is a setting. In a store (`store`, or the user's own in `cache_home()/moments`) they lie under the
hash of what they were measured from. With `stats_dir` they are EasyEdit's npz files,
`{stats_dir}/{model}/{corpus}_stats/{module}_{dtype}_mom2_{samples}.npz`, with `mom2.mom2` (sum of k k^T), `mom2.count`
and `sample_size`, as EasyEdit and MEMIT lay them out. Ours also say what they were measured from; where a file of ours
has the name but is of something else, it is left alone, and this model's gets a mark of its own before `.npz`.
EasyEdit's files do not say, and are taken by their name.

Where they are to be kept in a store, they are also looked for in the user's own and in all others that this user has
had moments measured into (`cache_home()/stores_with_moments.txt`), so that no command measures what another one has. Of
a model with hooks or replaced methods (`ModelIdentity.unseen`) nothing that was measured is known to hold: its moments
are measured in each session, and not kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nse_plugin.addresses import moment_addresses
from nse_plugin.corpora import PASSAGE_TOKENS, SELF_WRITTEN, corpus_identity, corpus_name, token_batches
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.identity import ModelIdentity, fingerprint
from nse_plugin.models.layout import EDITABLE_DTYPES, Layout, OutputMatrix
from nse_plugin.models.moments import TOKENS_PER_NEURON, MomentsError, MomentSums, measure_moments
from nse_plugin.store import MOMENT, Store
from nse_plugin.support.files import cache_home, written_whole
from nse_plugin.support.progress import bar

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 20.0
_UNREADABLE = (zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, OSError, EOFError)


Measure = Callable[
    [Layout, Any, NSEHyperParams, list[int], MomentSums, Callable[[MomentSums], None]], MomentSums
]  # of these layers, going on from sums of an earlier, interrupted call; the last is called as sums grow


def measure_here(
    layout: Layout, tokenizer: Any, hparams: NSEHyperParams, layers: list[int], sums: MomentSums,
    on_batch: Callable[[MomentSums], None],
) -> MomentSums:  # fmt: skip
    """A `Measure` in this process."""
    return measure_moments(layout, layers, token_batches(layout, tokenizer, hparams, sums.batches), sums, on_batch)


def second_moments(
    layout: Layout, tokenizer: Any, hparams: NSEHyperParams, measure: Measure = measure_here
) -> dict[int, Tensor]:
    """C0 of every edited layer, {layer: [f, f]}: read from where they are kept, else measured on the present weights
    and kept there. Of several processes that want the same ones at once, one measures.

    measure: another way to measure, e.g. on a cluster.
    Call it on the unedited model (`OriginalWeights.rewound`).
    Raises MomentsError for a file that is corrupt, of the wrong shape or not finite, for a stats_dir that cannot be
    written, and for a corpus that cannot be had.
    """
    kept = _kept(layout, tokenizer, hparams)
    found = _found(kept, layout, tokenizer, hparams)
    missing = [layer for layer in hparams.layers if layer not in found]
    if missing and kept.unseen is not None:
        log.warning("Second moments are measured and not kept: the model has %s.", kept.unseen)
        sums = _measure(layout, tokenizer, hparams, missing, MomentSums({}), lambda _: None, measure)
        found |= {layer: kept.stored(layer, sums) for layer in missing}
    elif missing:
        kept.check_writable()
        names = kept.names(missing)
        with _alone(names):
            found |= _read_all(kept, missing)  # another process may have measured them meanwhile
            names = {layer: name for layer, name in names.items() if layer not in found}
            if names:
                sums = _measured_for_keeps(layout, tokenizer, hparams, names, kept.folder, measure)
                found |= {layer: kept.write(layer, sums) for layer in names}
    _warn_if_few(found.values())
    return {layer: found[layer].moment for layer in hparams.layers}


def moments_are_kept(layout: Layout, tokenizer: Any, hparams: NSEHyperParams) -> bool:
    """Whether `second_moments` would find them all and measure nothing."""
    found = _found(_kept(layout, tokenizer, hparams), layout, tokenizer, hparams)
    return len(found) == len(hparams.layers)


def moments_folder(hparams: NSEHyperParams) -> Path:
    """Where second moments are kept: the store, or the stats_dir where there is one."""
    if hparams.stats_dir is not None:
        return Path(hparams.stats_dir).expanduser()
    return cache_home() / "moments" if hparams.store is None else Path(hparams.store).expanduser()


def moments_file(layout: Layout, matrix: OutputMatrix, hparams: NSEHyperParams) -> Path:
    """The npz file in stats_dir that a layer's moments are in, or will be written to.

    That is the path EasyEdit gives them, unless it is taken by moments of something else, or this model's lie under
    another model's name.
    """
    return _Files(layout, None, hparams, _text(hparams)).file(matrix)


class _Stored(NamedTuple):
    """tokens: how many they were measured from; NaN where that is not known."""

    moment: Tensor
    tokens: float


_Identity = Callable[[torch.dtype | None], str]  # `ModelIdentity.full`, each dtype's read once


class _Kept(Protocol):
    """Where moments are kept. unseen: of the model. names: a name for each layer's, which tells what it is measured
    from. stored: what `write` writes, of the right shape and finite."""

    unseen: str | None
    identity: _Identity

    @property
    def folder(self) -> Path: ...

    def read(self, layer: int) -> _Stored | None: ...

    def stored(self, layer: int, sums: MomentSums) -> _Stored: ...

    def write(self, layer: int, sums: MomentSums) -> _Stored: ...

    def check_writable(self) -> None: ...

    def names(self, layers: list[int]) -> dict[int, str]: ...


def _kept(layout: Layout, tokenizer: Any, hparams: NSEHyperParams) -> _Kept:
    if hparams.stats_dir is not None:
        return _Files(layout, tokenizer, hparams, _text(hparams))
    identity = functools.cache(ModelIdentity(layout.model).full)
    return _InStore(layout, tokenizer, hparams, moments_folder(hparams), identity)


def _found(kept: _Kept, layout: Layout, tokenizer: Any, hparams: NSEHyperParams) -> dict[int, _Stored]:
    """What is kept there; or in another store, and from now on there too."""
    found = _read_all(kept, hparams.layers)
    if not isinstance(kept, _InStore):
        return found
    for folder in _stores_with_moments():
        missing = [layer for layer in hparams.layers if layer not in found]
        if missing and folder.resolve() != kept.folder.resolve() and _text(hparams):
            others = _read_all(_InStore(layout, tokenizer, hparams, folder, kept.identity), missing)
            for layer, stored in others.items():
                kept.keep(layer, stored)
            found |= others
    return found


def _stores_with_moments() -> list[Path]:
    """The user's own store and all others that moments were measured into, as far as they are there."""
    try:
        noted = _note_path().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        noted = []
    folders = [cache_home() / "moments", *map(Path, noted)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _note_path() -> Path:
    return cache_home() / "stores_with_moments.txt"


def _note(store: Path) -> None:
    """Have a store looked into from now on."""
    store = store.resolve()
    if store not in _stores_with_moments():
        with contextlib.suppress(OSError), _note_path().open("a", encoding="utf-8") as stream:
            stream.write(f"{store}\n")


def _read_all(kept: _Kept, layers: Iterable[int]) -> dict[int, _Stored]:
    return {layer: stored for layer in layers if (stored := kept.read(layer)) is not None}


class _InStore:
    """Moments under the hash of what they were measured from."""

    def __init__(
        self, layout: Layout, tokenizer: Any, hparams: NSEHyperParams, folder: Path, identity: _Identity
    ) -> None:
        self._folder = folder
        self._store, self._hparams = Store(self._folder), hparams
        self._matrices = layout.output_matrices(hparams.layers)
        self.unseen = ModelIdentity(layout.model).unseen
        self.identity = identity
        self._addresses = functools.cache(lambda dtype: moment_addresses(identity(dtype), tokenizer, hparams))

    @property
    def folder(self) -> Path:
        return self._folder

    def names(self, layers: list[int]) -> dict[int, str]:
        return {layer: self._addresses(None)[layer] for layer in layers}

    def read(self, layer: int) -> _Stored | None:
        """Of this model, or of the same one in another precision."""
        if self.unseen is not None or not any(self._folder.glob("??")):
            return None
        for dtype in (None, *EDITABLE_DTYPES):
            moment = self._store.get(self._addresses(dtype)[layer])
            if moment is not None:
                return _Stored(check_moments({layer: moment}, {layer: self._matrices[layer]})[layer], float("nan"))
        return None

    def stored(self, layer: int, sums: MomentSums) -> _Stored:
        moment = (sums.sums[layer].cpu().double() / sums.tokens).to(getattr(torch, self._hparams.mom2_dtype))
        return _Stored(check_moments({layer: moment}, {layer: self._matrices[layer]})[layer], sums.tokens)

    def write(self, layer: int, sums: MomentSums) -> _Stored:
        stored = self.stored(layer, sums)
        self.keep(layer, stored)
        _note(self.folder)
        return stored

    def keep(self, layer: int, stored: _Stored) -> None:
        tokens = "" if math.isnan(stored.tokens) else f", {stored.tokens:.0f} tokens"
        about = f"layer {layer}, {corpus_name(self._hparams)}{tokens}"
        self._store.put_all([(self._addresses(None)[layer], stored.moment, MOMENT, about)])

    def check_writable(self) -> None:
        """A store that cannot be written to is said, and no reason to stop; one that cannot be is."""
        if self._hparams.store is not None:
            self._store.check_folder()
        problem = _why_not_writable(self.folder)
        if problem:
            log.warning("store %s cannot be written to (%s): second moments are not kept.", self.folder, problem)


class _Files:
    """Moments as EasyEdit's npz files."""

    def __init__(self, layout: Layout, tokenizer: Any, hparams: NSEHyperParams, text: str) -> None:
        self._layout, self._tokenizer, self._hparams = layout, tokenizer, hparams
        self.unseen = ModelIdentity(layout.model).unseen
        self.identity: _Identity = functools.cache(ModelIdentity(layout.model).full)
        self._text = text
        self._root = moments_folder(hparams)

    @property
    def folder(self) -> Path:
        return self.file(self._matrix(self._hparams.layers[0])).parent

    def names(self, layers: list[int]) -> dict[int, str]:
        addresses = moment_addresses(self.identity(None), self._tokenizer, self._hparams)
        return {layer: addresses[layer] for layer in layers}

    def read(self, layer: int) -> _Stored | None:
        return _read(self.file(self._matrix(layer)), layer, self._matrix(layer))

    def stored(self, layer: int, sums: MomentSums) -> _Stored:
        moment = self._total(layer, sums) / sums.tokens
        return _Stored(check_moments({layer: moment}, {layer: self._matrix(layer)})[layer], sums.tokens)

    def write(self, layer: int, sums: MomentSums) -> _Stored:
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
        problem = _why_not_writable(self.folder)
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
        """Whether a file says that it was measured on this model, maybe in another precision, and on this text."""
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
        underscored = self._root / name.replace("/", "_") / file  # ROME's and MEMIT's way
        return underscored if underscored.is_file() else self._root / name.split("/")[-1] / file


class _Origin(NamedTuple):
    """What moments are measured from.

    model: its `ModelIdentity.full`. dtype: it was in. text: the corpus and its seed; "" where its file is not there any
    more.
    """

    model: str
    dtype: str
    text: str

    @property
    def mark(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


def _text(hparams: NSEHyperParams) -> str:
    """What the corpus is; "" for a file that is not there any more: moments outlive their text."""
    try:
        return corpus_identity(hparams)
    except MomentsError:
        return ""


def _origin_in(path: Path) -> _Origin | None:
    """What a file says it was measured from; None when it is EasyEdit's, or cannot be read (reading it says why)."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if not any(name.startswith("nse.") for name in data.files):
                return None
            return _Origin(*(str(data[f"nse.{name}"]) if f"nse.{name}" in data else "?" for name in _Origin._fields))
    except _UNREADABLE:
        return None


def _why_not_writable(folder: Path) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return str(error)


@contextlib.contextmanager
def _alone(what: Mapping[int, str]) -> Iterator[None]:
    """Within, no other process of this user measures the same moments; where no lock can be had, maybe."""
    mark = hashlib.sha256(repr(sorted(what.values())).encode()).hexdigest()[:16]
    folder = cache_home() / "locks"
    if _why_not_writable(folder):
        yield
        return
    lock = FileLock(folder / f"moments-{mark}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("Another process measures second moments of layers %s of this model: waiting for it.", list(what))
        lock.acquire()
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        yield


def check_moments(moments: Mapping[int, Tensor], matrices: Mapping[int, OutputMatrix]) -> dict[int, Tensor]:
    """Raise MomentsError unless there is a finite [f, f] matrix for every edited layer."""
    for layer, matrix in matrices.items():
        if layer not in moments:
            raise MomentsError(
                f"moments has no entry for layer {layer}: measure it with `nse moments`, or pass moments=None."
            )
        if not isinstance(moments[layer], Tensor):
            raise MomentsError(f"moments[{layer}] is a {type(moments[layer]).__name__}: give a tensor [f, f].")
        size = matrix.matrix.shape[1]
        if tuple(moments[layer].shape) != (size, size):
            raise MomentsError(
                f"moments[{layer}] has shape {tuple(moments[layer].shape)}, and this layer needs {(size, size)}: "
                "they were measured on another model; measure them on this one."
            )
        if not bool(torch.isfinite(moments[layer]).all()):
            raise MomentsError(f"moments[{layer}] holds NaN or infinite numbers: measure it again in float32.")
    return {layer: moments[layer] for layer in matrices}


def _read(path: Path, layer: int, matrix: OutputMatrix) -> _Stored | None:
    """What a file holds; None when there is none."""
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
        raise MomentsError(f"{path} says it counted {tokens} tokens: {remedy}.")
    try:
        moment = check_moments({layer: total / tokens}, {layer: matrix})[layer]
    except MomentsError as error:
        raise MomentsError(f"{path}: {error}") from None
    return _Stored(moment, tokens)


def _measured_for_keeps(
    layout: Layout, tokenizer: Any, hparams: NSEHyperParams, missing: Mapping[int, str], folder: Path, measure: Measure
) -> MomentSums:
    """What `_measure` gives for layers {layer: address}; in a partial file meanwhile, to go on from after a stop."""
    what = [*missing.values(), f"{hparams.tokens_per_batch} tokens a batch"]
    partial = folder / f"nse_partial-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.safetensors"
    save_at = time.monotonic() + SAVE_EVERY_SECONDS

    def save(now: MomentSums) -> None:
        nonlocal save_at
        started = time.monotonic()
        if started >= save_at:
            _save_partial(partial, now, what)
            # the sums of a large model are gigabytes: writing them takes a twentieth of the time at most
            took = time.monotonic() - started
            save_at = started + max(SAVE_EVERY_SECONDS, 20 * took)

    sums = _measure(layout, tokenizer, hparams, list(missing), _resume(partial, what), save, measure)
    with contextlib.suppress(OSError):  # there was no place for it
        partial.unlink(missing_ok=True)
    return sums


def _measure(
    layout: Layout, tokenizer: Any, hparams: NSEHyperParams, layers: list[int], sums: MomentSums,
    on_batch: Callable[[MomentSums], None], measure: Measure,
) -> MomentSums:  # fmt: skip
    """One pass for all layers, going on from `sums`. Raises MomentsError when the first of it is not finite."""
    total = hparams.mom2_n_samples * PASSAGE_TOKENS if hparams.mom2_dataset == SELF_WRITTEN else None
    with bar(f"second moments of layers {layers}, tokens", total) as advance:
        advance(sums.tokens)
        begun = shown = sums.tokens

        def after_batch(now: MomentSums) -> None:
            nonlocal shown
            if shown == begun:
                _check_finite(layout, now)
            advance(now.tokens - shown)
            shown = now.tokens
            on_batch(now)

        return measure(layout, tokenizer, hparams, layers, sums, after_batch)


def _check_finite(layout: Layout, sums: MomentSums) -> None:
    """Refuse a model whose activations are not numbers before more is computed of them."""
    for layer, total in sums.sums.items():
        if not bool(total.isfinite().all()):
            dtype = str(layout.output_matrix(layer).weight.dtype).removeprefix("torch.")
            raise MomentsError(
                f"What layer {layer}'s MLP writes from is NaN or infinite in the model's own pass: its weights hold "
                f"such numbers, or {dtype} is too narrow for it; load it from sound files, in float32 or bfloat16."
            )


def _save_partial(path: Path, sums: MomentSums, what: list[str]) -> None:
    tensors = {str(layer): total.contiguous() for layer, total in sums.sums.items()}
    seen = json.dumps({"tokens": sums.tokens, "batches": sums.batches})
    metadata = {"what": json.dumps(what), "seen": seen, "layers": " ".join(tensors)}
    try:
        with written_whole(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:  # a partial file is a help, never a hindrance
        log.warning("%s cannot be written (%s): an interrupted measurement would begin again.", path, error)


def _resume(path: Path, what: list[str]) -> MomentSums:
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as stream:  # once: another process may put a newer one there
                metadata = stream.metadata()
                if json.loads(metadata["what"]) == what:
                    seen = json.loads(metadata["seen"])
                    log.info("Second moments go on after %d batches (%s).", seen["batches"], path)
                    sums = {int(layer): stream.get_tensor(layer) for layer in metadata["layers"].split()}
                    return MomentSums(sums, **seen)
        except Exception as error:  # a partial file is a help, never a hindrance
            log.warning("%s cannot be used (%s): starting again.", path, error)
    return MomentSums({})


def _warn_if_few(stored: Iterable[_Stored]) -> None:
    for moment, tokens in stored:
        if tokens < TOKENS_PER_NEURON * len(moment):
            log.warning(
                "Second moments from %d tokens for %d neurons a layer: fewer than %d tokens a neuron are a poor "
                "estimate; raise mom2_n_samples.", tokens, len(moment), TOKENS_PER_NEURON,
            )  # fmt: skip
            return
