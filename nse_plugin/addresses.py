"""What a value z and a second moment are computed from, as one hash each: their addresses in a `Store`.

z depends on the unedited model, the token rows of its fact in all contexts, and the settings of the value step: never
on p, alpha, lambda, the number of passes, or what was edited before. C0 depends on the unedited model, its tokenizer
and the text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from nse_plugin.corpora import corpus_identity
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.solvers import BETAS, CONTEXTS, LONG, LONGER, SHARE
from nse_plugin.models.prompts import EncodedPrompt, FactPrompts

VALUES = 2  # raise it whenever method/values.py computes other values than before
MOMENTS = 2  # raise it whenever models/moments.py, corpora.py or models/writing make other moments than before
VALUE_SETTINGS = ("v_num_grad_steps", "v_lr", "v_weight_decay", "kl_factor", "clamp_norm_factor")
MOMENT_SETTINGS = ("mom2_n_samples", "mom2_dtype")


def value_addresses(
    model: str,
    prompts: Sequence[FactPrompts],
    hparams: NSEHyperParams,
    groups: Sequence[Sequence[int]] = (),
) -> list[str]:
    """The address of every fact's z. model: `ModelIdentity.full` of the unedited model. groups: facts (indices) that
    share a value, whose rows each one's z depends on."""
    settings = {name: getattr(hparams, name) for name in VALUE_SETTINGS}
    if hparams.solver != "exact":
        settings["solver"] = [hparams.solver, CONTEXTS, SHARE, LONGER, BETAS[hparams.solver]]
    shared = {"value": VALUES, "model": model, "layer": hparams.layers[-1], **settings}
    rows = [[_row(row) for row in (*fact.rewrites, fact.essence)] for fact in prompts]
    long = {"long": LONG}
    asked = [{**shared, "rows": own, **(long if fact.in_chat else {})} for own, fact in zip(rows, prompts, strict=True)]
    for group in groups:
        if len(group) > 1:
            together = {**long, "group": [rows[place] for place in group]}
            for place in group:
                asked[place] |= together
    return [_hash(one) for one in asked]


def moment_addresses(model: str, tokenizer: Any, hparams: NSEHyperParams) -> dict[int, str]:
    """The address of every edited layer's C0, {layer: address}. model: as for `value_addresses`."""
    settings = {name: getattr(hparams, name) for name in MOMENT_SETTINGS}
    text = corpus_identity(hparams)
    shared = {"moment": MOMENTS, "model": model, "tokenizer": _tokenizer(tokenizer), "text": text, **settings}
    return {layer: _hash({**shared, "layer": layer}) for layer in hparams.layers}


def _row(prompt: EncodedPrompt) -> dict[str, Any]:
    return {"ids": prompt.ids, "lookup": prompt.lookup, "targets": prompt.targets}


def _tokenizer(tokenizer: Any) -> str:
    """A hash of how text becomes tokens, but for padding and truncation, which no one here uses."""
    special = sorted(tokenizer.all_special_ids), tokenizer.bos_token_id, tokenizer.eos_token_id
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # in Python: its words are the best it tells
        return _hash({"special": special, "vocabulary": sorted(tokenizer.get_vocab().items())})
    told = json.loads(backend.to_str())
    kept = {name: value for name, value in told.items() if name not in ("padding", "truncation")}
    return _hash({"special": special, **kept})


def _hash(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
