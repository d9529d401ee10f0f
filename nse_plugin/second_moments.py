"""Second moments, found or measured: EasyEdit's npz files are read, and written for the next time.

File: `{stats_dir}/{model}/{corpus}_stats/{module}_{dtype}_mom2_{samples}.npz` with `mom2.mom2` (sum of k k^T),
`mom2.count` and `sample_size`, as EasyEdit and MEMIT lay it out. Ours also carry what they were measured from: the
matrix's fingerprint, the text and its seed. Where a file of ours has the name but was measured from something else, it
is left alone, and this model's file gets a mark of its own before `.npz`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nse_plugin.addresses import moment_addresses
from nse_plugin.corpora import PASSAGE_TOKENS, SELF_WRITTEN, WIKIPEDIA, corpus_name, token_batches
from nse_plugin.home import cache_home, written_whole
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.fingerprint import fingerprint, model_fingerprint
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.models.moments import TOKENS_PER_NEURON, MomentsError, MomentSums, measure_moments
from nse_plugin.progress import bar
from nse_plugin.store import MOMENT, Store

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 20.0
SAMPLER = 1  # raise it when the model's own text is sampled in another way
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
    and kept there: in `stats_dir`, or in the `store` when there is one and no stats_dir.

    measure: another way to measure, e.g. on a cluster.
    Call it on the unedited model (`OriginalWeights.rewound`).
    Raises MomentsError for a file that is corrupt, of the wrong shape or not finite, and for a corpus that cannot be
    had.
    """
    if hparams.store is not None and hparams.stats_dir is None:
        return _stored_moments(layout, tokenizer, hparams, Store(hparams.store), measure)
    matrices = layout.output_matrices(hparams.layers)
    files = {layer: moments_file(layout, matrix, hparams) for layer, matrix in matrices.items()}
    found = {layer: _read(files[layer], layer, matrix) for layer, matrix in matrices.items()}
    missing = [layer for layer, moment in found.items() if moment is None]
    if missing:
        addresses = moment_addresses(model_fingerprint(layout.model), tokenizer, hparams)
        needed = {layer: addresses[layer] for layer in missing}
        sums = _measure(layout, tokenizer, hparams, needed, files[missing[0]].parent, measure)
        for layer in missing:
            _save(files[layer], sums, layer, matrices[layer], hparams)
            found[layer] = _read(files[layer], layer, matrices[layer])
    stored = {layer: moment for layer, moment in found.items() if moment is not None}
    _warn_if_few(stored.values())
    return {layer: moment for layer, (moment, _) in stored.items()}


def _stored_moments(
    layout: Layout, tokenizer: Any, hparams: NSEHyperParams, store: Store, measure: Measure
) -> dict[int, Tensor]:
    """The same out of a store, where what they were measured from is their address."""
    addresses = moment_addresses(model_fingerprint(layout.model), tokenizer, hparams)
    moments = {layer: store.get(address) for layer, address in addresses.items()}
    missing = {layer: addresses[layer] for layer, moment in moments.items() if moment is None}
    if missing:
        sums = _measure(layout, tokenizer, hparams, missing, store.folder, measure)
        dtype = getattr(torch, hparams.mom2_dtype)
        measured = {layer: (sums.sums[layer].cpu().double() / sums.tokens).to(dtype) for layer in missing}
        _warn_if_few(_Stored(moment, sums.tokens) for moment in measured.values())
        moments.update(check_moments(measured, layout.output_matrices(list(missing))))
        about = f"layer {{}}, {corpus_name(hparams)}, {sums.tokens} tokens"
        store.put_all((missing[layer], measured[layer], MOMENT, about.format(layer)) for layer in missing)
    return {layer: moment for layer, moment in moments.items() if moment is not None}


def moments_file(layout: Layout, matrix: OutputMatrix, hparams: NSEHyperParams) -> Path:
    """Where a layer's moments are, or will be: the path EasyEdit gives them, unless others of ours are there already.

    A model without a name gets one of its kind and fingerprint.
    """
    path, origin = _easyedit_path(layout, matrix, hparams), _origin(matrix, hparams)
    return path if _may_be_of(path, origin) else path.with_suffix(f".{origin.mark}.npz")


class _Origin(NamedTuple):
    """What moments are measured from.

    fingerprint, dtype: of the matrix. text: the corpus and its seed, a file by its size and its beginning; "" where the
    file is not there any more.
    """

    fingerprint: int
    dtype: str
    text: str

    @property
    def mark(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


def _origin(matrix: OutputMatrix, hparams: NSEHyperParams) -> _Origin:
    return _Origin(fingerprint(matrix.weight.data), str(matrix.weight.dtype), _text(hparams))


def _text(hparams: NSEHyperParams) -> str:
    if hparams.mom2_dataset == SELF_WRITTEN:
        return f"self, seed {hparams.seed}, sampler {SAMPLER}"
    if hparams.mom2_dataset == WIKIPEDIA:
        return f"wikipedia, seed {hparams.seed}"
    file = Path(hparams.mom2_dataset)
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return f"{file.stat().st_size} bytes, {hashlib.sha256(stream.read(2**20)).hexdigest()[:16]}"


def _may_be_of(path: Path, origin: _Origin) -> bool:
    """Whether a file is free, EasyEdit's, or measured from `origin`; moments serve the model in another dtype too."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if not any(name.startswith("nse.") for name in data.files):
                return True
            found = _Origin(int(data["nse.fingerprint"]), str(data["nse.dtype"]), str(data["nse.text"]))
    except FileNotFoundError:
        return True
    except KeyError:  # of an earlier version, which did not say
        return False
    except _UNREADABLE:
        return True  # reading it says what is wrong
    same_weights = found.fingerprint == origin.fingerprint or found.dtype != origin.dtype
    return same_weights and origin.text in (found.text, "")


def _easyedit_path(layout: Layout, matrix: OutputMatrix, hparams: NSEHyperParams) -> Path:
    root = Path(hparams.stats_dir).expanduser() if hparams.stats_dir else cache_home() / "stats"
    module = matrix.name.removesuffix(".weight")
    file = Path(f"{corpus_name(hparams)}_stats") / f"{module}_{hparams.mom2_dtype}_mom2_{hparams.mom2_n_samples}.npz"
    config: Any = layout.model.config
    path = str(getattr(config, "_name_or_path", "") or "").rstrip("/")
    if not path:
        embeddings = layout.model.get_input_embeddings().weight.data  # type: ignore[operator]
        path = f"{config.model_type}-{fingerprint(embeddings) % 2**32:08x}"
    underscored = root / path.replace("/", "_") / file  # ROME's and MEMIT's way
    return underscored if underscored.is_file() else root / path.split("/")[-1] / file


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


class _Stored(NamedTuple):
    moment: Tensor
    tokens: float


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


def _save(path: Path, sums: MomentSums, layer: int, matrix: OutputMatrix, hparams: NSEHyperParams) -> None:
    total = sums.sums[layer].cpu().to(getattr(torch, hparams.mom2_dtype)).numpy()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        entries: dict[str, Any] = {
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "mom2.count": sums.tokens,
            "mom2.mom2": total,
            "sample_size": hparams.mom2_n_samples,
            **{f"nse.{name}": value for name, value in _origin(matrix, hparams)._asdict().items()},
        }
        np.savez(stream, **entries)


def _measure(
    layout: Layout, tokenizer: Any, hparams: NSEHyperParams, missing: Mapping[int, str], folder: Path, measure: Measure
) -> MomentSums:
    """One pass for all the layers that are missing, {layer: address}; kept in a partial file meanwhile, to go on from
    after a stop."""
    layers, what = list(missing), list(missing.values())
    partial = folder / f"nse_partial-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.safetensors"
    sums = _resume(partial, what)
    save_at = time.monotonic() + SAVE_EVERY_SECONDS
    total = hparams.mom2_n_samples * PASSAGE_TOKENS if hparams.mom2_dataset == SELF_WRITTEN else None
    with bar(f"second moments of layers {layers}, tokens", total) as advance:
        advance(sums.tokens)
        shown = sums.tokens

        def on_batch(now: MomentSums) -> None:
            nonlocal save_at, shown
            advance(now.tokens - shown)
            shown = now.tokens
            started = time.monotonic()
            if started >= save_at:
                _save_partial(partial, now, what)
                # the sums of a large model are gigabytes: writing them takes a twentieth of the time at most
                took = time.monotonic() - started
                save_at = started + max(SAVE_EVERY_SECONDS, 20 * took)

        sums = measure(layout, tokenizer, hparams, layers, sums, on_batch)
    partial.unlink(missing_ok=True)
    return sums


def _save_partial(path: Path, sums: MomentSums, what: list[str]) -> None:
    with written_whole(path) as temporary:
        tensors = {str(layer): total.contiguous() for layer, total in sums.sums.items()}
        seen = json.dumps({"tokens": sums.tokens, "batches": sums.batches})
        save_file(tensors, temporary, metadata={"what": json.dumps(what), "seen": seen, "layers": " ".join(tensors)})


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
