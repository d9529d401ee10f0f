"""Measure second moments so that an interrupted measurement can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.moments.check import check_finite
from nse_plugin.moments.corpora import PASSAGE_TOKENS, SELF_WRITTEN
from nse_plugin.moments.measure import MomentSums
from nse_plugin.support.files import written_whole
from nse_plugin.support.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 20.0
Measure = Callable[
    [Layout, Any, NSEHyperParams, list[int], MomentSums, Callable[[MomentSums], None]], MomentSums
]  # measures the given layers, continuing from the given sums, and calls the last argument after each batch


def measured_for_keeps(
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    hparams: NSEHyperParams,
    missing: Mapping[int, str],
    folder: Path,
    measure: Measure,
) -> MomentSums:
    """Run `measured` for the layers {layer: address}, and save a partial file from which a later call resumes."""
    what = [*missing.values(), f"{hparams.tokens_per_batch} tokens a batch"]
    partial = folder / f"nse_partial-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.safetensors"
    save_at = time.monotonic() + SAVE_EVERY_SECONDS

    def save(now: MomentSums) -> None:
        nonlocal save_at
        started = time.monotonic()
        if started >= save_at:
            _save_partial(partial, now, what)
            # the sums of a large model are gigabytes: spend at most a twentieth of the time on writing them
            took = time.monotonic() - started
            save_at = started + max(SAVE_EVERY_SECONDS, 20 * took)

    sums = measured(layout, tokenizer, hparams, list(missing), _resume(partial, what), save, measure)
    with contextlib.suppress(OSError):  # the folder is not writable
        partial.unlink(missing_ok=True)
    return sums


def measured(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, layers: list[int], sums: MomentSums,
    on_batch: Callable[[MomentSums], None], measure: Measure,
) -> MomentSums:  # fmt: skip
    """Measure all layers in one pass, continuing from `sums`, with a progress bar. on_batch: called after each batch.
    Raises MomentsError if the sums are not finite after the first batch."""
    total = hparams.mom2_n_samples * PASSAGE_TOKENS if hparams.mom2_dataset == SELF_WRITTEN else None
    with bar(f"second moments of layers {layers}, tokens", total) as advance:
        advance(sums.tokens)
        begun = shown = sums.tokens

        def after_batch(now: MomentSums) -> None:
            nonlocal shown
            if shown == begun:
                check_finite(layout, now)
            advance(now.tokens - shown)
            shown = now.tokens
            on_batch(now)

        return measure(layout, tokenizer, hparams, layers, sums, after_batch)


def _save_partial(path: Path, sums: MomentSums, what: list[str]) -> None:
    tensors = {str(layer): total.contiguous() for layer, total in sums.sums.items()}
    seen = json.dumps({"tokens": sums.tokens, "batches": sums.batches})
    metadata = {"what": json.dumps(what), "seen": seen, "layers": " ".join(tensors)}
    try:
        with written_whole(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:  # a partial file is optional
        log.warning("%s cannot be written (%s): an interrupted measurement would begin again.", path, error)


def _resume(path: Path, what: list[str]) -> MomentSums:
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as stream:  # opened once: another process may replace the file
                metadata = stream.metadata()
                if json.loads(metadata["what"]) == what:
                    seen = json.loads(metadata["seen"])
                    log.info("Second moments go on after %d batches (%s).", seen["batches"], path)
                    sums = {int(layer): stream.get_tensor(layer) for layer in metadata["layers"].split()}
                    return MomentSums(sums, **seen)
        except Exception as error:  # a partial file is optional
            log.warning("%s cannot be used (%s): starting again.", path, error)
    return MomentSums({})
