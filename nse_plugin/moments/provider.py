"""Second moments C0, found or measured, and kept for the next time.

Where they are kept is a setting. In a store (`store`, or the user's own in `cache_home()/moments`) they lie under the
hash of what they were measured from (`in_store`). With `stats_dir` they are EasyEdit's npz files (`npz`).

Where they are to be kept in a store, they are also looked for in the user's own and in all others that this user has
had moments measured into (`cache_home()/stores_with_moments.txt`), so that no command measures what another one has. Of
a model with hooks or replaced methods (`ModelIdentity.unseen`) nothing that was measured is known to hold: its moments
are measured in each session, and not kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

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
    """A `Measure` in this process."""
    return measure_moments(layout, layers, token_batches(layout, tokenizer, hparams, sums.batches), sums, on_batch)


def second_moments(
    layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams, measure: Measure = measure_here
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
    """Whether `second_moments` would find them all and measure nothing."""
    found = _found(_kept(layout, tokenizer, hparams), layout, tokenizer, hparams)
    return len(found) == len(hparams.layers)


def moments_file(layout: Layout, matrix: OutputMatrix, hparams: NSEHyperParams) -> Path:
    """The npz file in stats_dir that a layer's moments are in, or will be written to.

    That is the path EasyEdit gives them, unless it is taken by moments of something else, or this model's lie under
    another model's name.
    """
    return NpzFiles(layout, None, hparams, _text(hparams)).file(matrix)


def _kept(layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> Kept:
    if hparams.stats_dir is not None:
        return NpzFiles(layout, tokenizer, hparams, _text(hparams))
    identity = functools.cache(ModelIdentity(layout.model).full)
    return InStore(layout, tokenizer, hparams, moments_folder(hparams), identity)


def _found(
    kept: Kept, layout: Layout, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams
) -> dict[int, Stored]:
    """What is kept there; or in another store, and from now on there too."""
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
    """What the corpus is; "" for a file that is not there any more: moments outlive their text."""
    try:
        return corpus_identity(hparams)
    except MomentsError:
        return ""


@contextlib.contextmanager
def _alone(what: Mapping[int, str]) -> Iterator[None]:
    """Within, no other process of this user measures the same moments; where no lock can be had, maybe."""
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
