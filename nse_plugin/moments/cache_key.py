"""The key of a layer's second moments in a `Store`: one hash of everything that C0 is measured from.

C0 depends on the unedited model, its tokenizer, the text, and the settings in `MOMENT_SETTINGS`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.moments.corpora import corpus_identity
from nse_plugin.support.hashing import hash_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOMENTS = 2  # increment it whenever moments/measure.py, corpora.py or models/writing give other moments
MOMENT_SETTINGS = ("mom2_n_samples", "mom2_dtype")


def moment_cache_keys(model: str, tokenizer: PreTrainedTokenizerBase, hparams: NSEHyperParams) -> dict[int, str]:
    """Return every edited layer's address of C0, {layer: address}. model: its identity, as for `value_cache_keys`."""
    settings = {name: getattr(hparams, name) for name in MOMENT_SETTINGS}
    text = corpus_identity(hparams)
    shared = {"moment": MOMENTS, "model": model, "tokenizer": _tokenizer(tokenizer), "text": text, **settings}
    return {layer: hash_of({**shared, "layer": layer}) for layer in hparams.layers}


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of how text is tokenised, without padding and truncation, which are not used here."""
    special = sorted(tokenizer.all_special_ids), tokenizer.bos_token_id, tokenizer.eos_token_id
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # a tokenizer in pure Python: its vocabulary is the best description available
        return hash_of({"special": special, "vocabulary": sorted(tokenizer.get_vocab().items())})
    described = json.loads(backend.to_str())
    kept = {name: value for name, value in described.items() if name not in ("padding", "truncation")}
    return hash_of({"special": special, **kept})
