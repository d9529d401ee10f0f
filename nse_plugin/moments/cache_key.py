"""What a second moment is measured from, as one hash: its address in a `Store`.

C0 depends on the unedited model, its tokenizer and the text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.moments.corpora import corpus_identity
from nse_plugin.support.hashing import hash_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOMENTS = 2  # raise it whenever moments/measure.py, corpora.py or models/writing make other moments than before
MOMENT_SETTINGS = ("mom2_n_samples", "mom2_dtype")


def moment_cache_keys(model: str, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> dict[int, str]:
    """The address of every edited layer's C0, {layer: address}. model: its fingerprint, as for `value_cache_keys`."""
    settings = {name: getattr(hparams, name) for name in MOMENT_SETTINGS}
    text = corpus_identity(hparams)
    shared = {"moment": MOMENTS, "model": model, "tokenizer": _tokenizer(tokenizer), "text": text, **settings}
    return {layer: hash_of({**shared, "layer": layer}) for layer in hparams.layers}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of how text becomes tokens, but for padding and truncation, which play no part here."""
    special = sorted(tokenizer.all_special_ids), tokenizer.bos_token_id, tokenizer.eos_token_id
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # in Python: its vocabulary is the best there is
        return hash_of({"special": special, "vocabulary": sorted(tokenizer.get_vocab().items())})
    described = json.loads(backend.to_str())
    kept = {name: value for name, value in described.items() if name not in ("padding", "truncation")}
    return hash_of({"special": special, **kept})
