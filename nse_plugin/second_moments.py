"""Second moments, found or measured: EasyEdit's npz files are read, and written for the next time.

File: `{stats_dir}/{model}/{corpus}_stats/{module}_{dtype}_mom2_{samples}.npz` with `mom2.mom2` (sum of k k^T), `mom2.count`
and `sample_size`, as EasyEdit and MEMIT lay it out; ours also carry the fingerprint of the matrix they were
measured at, so that another model of the same name is not taken for this one.
"""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn

from nse_plugin.corpora import PASSAGE_TOKENS, SELF_WRITTEN, corpus_name, token_batches
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.home import cache_home, written_whole
from nse_plugin.models.fingerprint import fingerprint
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.models.moments import TOKENS_PER_NEURON, MomentsError, MomentSums, measure_moments
from nse_plugin.progress import bar

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 20.0


def second_moments(layout: Layout, tokenizer: Any, hparams: NSEHyperParams) -> dict[int, Tensor]:
    """C0 of every edited layer, {layer: [f, f]}: read from stats_dir, else measured on the weights as they are and kept.

    Call it on the unedited model (`OriginalWeights.rewound`).
    Raises MomentsError for a file that is corrupt, of the wrong shape or not finite, and for a corpus that cannot be had.
    """
    matrices = layout.output_matrices(hparams.layers)
    files = {layer: moments_file(layout, matrix, hparams) for layer, matrix in matrices.items()}
    found = {layer: _read(files[layer], matrix) for layer, matrix in matrices.items()}
    missing = [layer for layer, moment in found.items() if moment is None]
    if missing:
        sums = _measure(layout, tokenizer, hparams, missing, files[missing[0]].parent)
        for layer in missing:
            _save(files[layer], sums, layer, matrices[layer], hparams)
            found[layer] = (sums.sums[layer] / sums.tokens).to(getattr(torch, hparams.mom2_dtype))
    return check_moments({layer: moment for layer, moment in found.items() if moment is not None}, matrices)


def moments_file(layout: Layout, matrix: OutputMatrix, hparams: NSEHyperParams) -> Path:
    """Where EasyEdit keeps a layer's moments. A model without a name gets one of its kind and fingerprint."""
    root = Path(hparams.stats_dir).expanduser() if hparams.stats_dir else cache_home() / "stats"
    path = str(getattr(layout.model.config, "_name_or_path", "") or "").rstrip("/")
    config: Any = layout.model.config
    own_name = f"{config.model_type}-{fingerprint(matrix.weight.data) % 2**32:08x}"
    module = matrix.name.removesuffix(".weight")
    name = f"{module}_{hparams.mom2_dtype}_mom2_{hparams.mom2_n_samples}.npz"
    folder = f"{corpus_name(hparams)}_stats"
    underscored = root / path.replace("/", "_") / folder / name  # ROME's and MEMIT's way
    return underscored if path and underscored.is_file() else root / (path.split("/")[-1] or own_name) / folder / name


def check_moments(moments: Mapping[int, Tensor], matrices: Mapping[int, OutputMatrix]) -> dict[int, Tensor]:
    """Raise MomentsError unless there is a finite [f, f] matrix for every edited layer."""
    for layer, matrix in matrices.items():
        if layer not in moments:
            raise MomentsError(f"moments has no entry for layer {layer}: measure it with `nse moments`, or pass moments=None.")
        size = matrix.matrix.shape[1]
        if tuple(moments[layer].shape) != (size, size):
            raise MomentsError(
                f"moments[{layer}] has shape {tuple(moments[layer].shape)}, and this layer needs {(size, size)}: "
                "they were measured on another model; measure them on this one."
            )
        if not bool(torch.isfinite(moments[layer]).all()):
            raise MomentsError(f"moments[{layer}] holds NaN or infinite numbers: measure it again in float32.")
    return {layer: moments[layer] for layer in matrices}


def _read(path: Path, matrix: OutputMatrix) -> Tensor | None:
    if not path.is_file():
        return None
    remedy = "delete the file to have it measured again"
    try:
        with np.load(path, allow_pickle=False) as data:
            count = float(data["mom2.count"])
            total = torch.from_numpy(data["mom2.mom2"])
            measured_at = int(data["nse.fingerprint"]) if "nse.fingerprint" in data.files else None
            dtype = str(data["nse.dtype"]) if "nse.dtype" in data.files else None
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise MomentsError(f"{path} is not a readable second-moment file ({error}): {remedy}.") from error
    if measured_at not in (None, fingerprint(matrix.weight.data)) and dtype == str(matrix.weight.dtype):
        log.warning("%s was measured on other weights of the same name: measuring again.", path)
        return None
    if not count > 0:
        raise MomentsError(f"{path} says it counted {count} tokens: {remedy}.")
    _warn_if_few(count, total.shape[0])
    return total / count


def _save(path: Path, sums: MomentSums, layer: int, matrix: OutputMatrix, hparams: NSEHyperParams) -> None:
    total = sums.sums[layer].cpu().to(getattr(torch, hparams.mom2_dtype)).numpy()
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        entries: dict[str, Any] = {
            "mom2.constructor": "util.runningstats.SecondMoment()",
            "mom2.count": sums.tokens,
            "mom2.mom2": total,
            "sample_size": hparams.mom2_n_samples,
            "nse.fingerprint": fingerprint(matrix.weight.data),
            "nse.dtype": str(matrix.weight.dtype),
        }
        np.savez(stream, **entries)


def _measure(layout: Layout, tokenizer: Any, hparams: NSEHyperParams, layers: list[int], folder: Path) -> MomentSums:
    """One pass for all the layers that are missing; kept in a partial file meanwhile, so that it can go on after a stop."""
    matrices = layout.output_matrices(layers)
    what = {
        "layers": layers, "corpus": hparams.mom2_dataset, "samples": hparams.mom2_n_samples, "seed": hparams.seed,
        "tokens_per_batch": hparams.tokens_per_batch,
        "fingerprints": [fingerprint(matrix.weight.data) for matrix in matrices.values()],
    }  # fmt: skip
    partial = folder / "nse_partial.safetensors"
    sums = _resume(partial, what)
    saved_at = time.monotonic()
    total = hparams.mom2_n_samples * PASSAGE_TOKENS if hparams.mom2_dataset == SELF_WRITTEN else None
    with bar(f"second moments of layers {layers}, tokens", total) as advance:
        advance(sums.tokens)
        shown = sums.tokens

        def on_batch(now: MomentSums) -> None:
            nonlocal saved_at, shown
            advance(now.tokens - shown)
            shown = now.tokens
            if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                _save_partial(partial, now, what)
                saved_at = time.monotonic()

        batches = token_batches(layout.model, tokenizer, hparams, sums.batches)
        sums = measure_moments(layout, layers, batches, sums, on_batch)
    partial.unlink(missing_ok=True)
    _warn_if_few(sums.tokens, next(iter(sums.sums.values())).shape[0])
    return sums


def _save_partial(path: Path, sums: MomentSums, what: dict[str, Any]) -> None:
    with written_whole(path) as temporary:
        tensors = {str(layer): total.contiguous() for layer, total in sums.sums.items()}
        seen = json.dumps({"tokens": sums.tokens, "batches": sums.batches})
        save_file(tensors, temporary, metadata={"what": json.dumps(what), "seen": seen})


def _resume(path: Path, what: dict[str, Any]) -> MomentSums:
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as stream:
                metadata = stream.metadata()
            if json.loads(metadata["what"]) == what:
                seen = json.loads(metadata["seen"])
                log.info("Second moments go on after %d batches (%s).", seen["batches"], path)
                return MomentSums({int(layer): total for layer, total in load_file(path).items()}, **seen)
        except Exception as error:  # a partial file is a help, never a hindrance
            log.warning("%s cannot be used (%s): starting again.", path, error)
    return MomentSums({})


def _warn_if_few(tokens: float, neurons: int) -> None:
    if tokens < TOKENS_PER_NEURON * neurons:
        log.warning(
            "Second moments from %d tokens for %d neurons a layer: fewer than %d tokens a neuron are a poor estimate; "
            "raise mom2_n_samples.", tokens, neurons, TOKENS_PER_NEURON,
        )  # fmt: skip
