"""Second moments C0: loaded if they were saved before, otherwise measured and saved.

The hyperparameters decide where they are saved. In a store (`store`, or the user's own in `cache_home()/moments`) they
are addressed by the hash of everything they are measured from (`in_store`). With `stats_dir` they are EasyEdit's npz
files (`npz`).

If moments are saved in a store, they are also looked up in the user's own store and in all other stores that this user
has measured moments into (`cache_home()/stores_with_moments.txt`), so that no command repeats another's measurement.
If the model has hooks or replaced methods (`ModelIdentity.unseen`), earlier measurements may not apply to it, so its
moments are measured in each session and not saved. (EasyEdit's own npz files are still used.)
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.layout import Layout, OutputMatrix
from nse_plugin.moments.check import warn_if_few
from nse_plugin.moments.corpora import corpus_identity, token_batches
from nse_plugin.moments.in_store import InStore, stores_with_moments
from nse_plugin.moments.measure import MomentsError, MomentSums, measure_moments
from nse_plugin.moments.npz import NpzFiles
from nse_plugin.moments.resume import Measure, measured, measured_for_keeps
from nse_plugin.moments.storage import Kept, Stored, moments_folder, why_not_writable
from nse_plugin.support.files import cache_home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def measure_here(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, layers: list[int], sums: MomentSums,
    on_batch: Callable[[MomentSums], None],
) -> MomentSums:  # fmt: skip
    """Measure moments in this process; a `Measure`."""
    return measure_moments(layout, layers, token_batches(layout, tokenizer, hparams, sums.batches), sums, on_batch)


def second_moments(
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    hparams: NSEHyperParams,
    measure: Measure = measure_here,
    identity: str | None = None,
) -> dict[int, Tensor]:
    """Return C0 of every edited layer, {layer: [f, f]}: loaded if saved before, otherwise measured on the current
    weights and saved. If several processes need the same moments at once, only one measures them.

    measure: how to measure, e.g. on a cluster. identity: the model's full identity, if it is known.
    Call it on the unedited model (`OriginalWeights.rewound`).
    Raises MomentsError if a file is corrupt or has the wrong shape, if moments are not finite, if stats_dir is not
    writable, or if the corpus cannot be read; StoreError if `store` is a file.
    """
    kept = _kept(layout, tokenizer, hparams, identity)
    found = _found(kept, layout, tokenizer, hparams)
    missing = [layer for layer in hparams.layers if layer not in found]
    if missing and identity is not None:  # for what is kept from now on, every weight is read again
        kept = _kept(layout, tokenizer, hparams)
    if missing and kept.unseen is not None:
        log.warning("Second moments are measured and not kept: the model has %s.", kept.unseen)
        sums = measured(layout, tokenizer, hparams, missing, MomentSums({}), lambda _: None, measure)
        found |= {layer: kept.stored(layer, sums) for layer in missing}
    elif missing:
        kept.check_writable()
        names = kept.names(missing)
        with _alone(names):
            found |= _read_all(kept, missing)  # another process may have measured them meanwhile
            names = {layer: name for layer, name in names.items() if layer not in found}
            if names:
                sums = measured_for_keeps(layout, tokenizer, hparams, names, kept.folder, measure)
                found |= {layer: kept.write(layer, sums) for layer in names}
    warn_if_few(found.values())
    return {layer: found[layer].moment for layer in hparams.layers}


def moments_are_kept(layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> bool:
    """Return whether `second_moments` would find the moments of all edited layers and measure nothing."""
    found = _found(_kept(layout, tokenizer, hparams), layout, tokenizer, hparams)
    return len(found) == len(hparams.layers)


def moments_file(layout: Layout, matrix: OutputMatrix, hparams: NSEHyperParams) -> Path:
    """Return the npz file in stats_dir that contains a layer's moments, or to which they will be written.

    This is EasyEdit's path, unless that path contains moments of another origin, or this model's moments are saved
    under another model's name.
    """
    return NpzFiles(layout, None, hparams, _text(hparams)).file(matrix)


def missing_layers(layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> list[int]:
    """Return the edited layers whose second moments `second_moments` would have to measure. Call it on the unedited
    model."""
    found = _found(_kept(layout, tokenizer, hparams), layout, tokenizer, hparams)
    return [layer for layer in hparams.layers if layer not in found]


def _kept(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, identity: str | None = None
) -> Kept:
    if hparams.stats_dir is not None:
        return NpzFiles(layout, tokenizer, hparams, _text(hparams))

    @functools.cache
    def identity_as(dtype: torch.dtype | None) -> str:
        return identity if identity is not None and dtype is None else ModelIdentity(layout.model).full(dtype)

    return InStore(layout, tokenizer, hparams, moments_folder(hparams), identity_as)


def _found(
    kept: Kept, layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams
) -> dict[int, Stored]:
    """Load saved moments from `kept`, then from the user's other stores, whose moments are copied to `kept`."""
    found = _read_all(kept, hparams.layers)
    if not isinstance(kept, InStore):
        return found
    for folder in stores_with_moments():
        missing = [layer for layer in hparams.layers if layer not in found]
        if missing and folder.resolve() != kept.folder.resolve() and _text(hparams):
            others = _read_all(InStore(layout, tokenizer, hparams, folder, kept.identity), missing)
            for layer, stored in others.items():
                kept.keep(layer, stored)
            found |= others
    return found


def _read_all(kept: Kept, layers: Iterable[int]) -> dict[int, Stored]:
    return {layer: stored for layer in layers if (stored := kept.read(layer)) is not None}


def _text(hparams: NSEHyperParams) -> str:
    """Return `corpus_identity`; "" if the corpus file no longer exists, since moments may outlive their text."""
    try:
        return corpus_identity(hparams)
    except MomentsError:
        return ""


@contextlib.contextmanager
def _alone(what: Mapping[int, str]) -> Iterator[None]:
    """Context manager in which no other process of this user measures the same moments, if a lock can be created."""
    mark = hashlib.sha256(repr(sorted(what.values())).encode()).hexdigest()[:16]
    folder = cache_home() / "locks"
    if why_not_writable(folder):
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
