"""The key of a value z in a `Store`: one hash of everything that z is computed from.

z depends on the unedited model, the token rows of its fact in all contexts, and the settings of the value step. It does
not depend on p, alpha, lambda, the number of passes, or earlier edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.method.value_optimizer import BETAS, CONTEXTS, LONG, LONGER, SHARE
from nse_plugin.models.prompts import EncodedPrompt, FactPrompts
from nse_plugin.support.hashing import hash_of

VALUES = 2  # increment it whenever method/values.py computes different values than before
VALUE_SETTINGS = ("v_num_grad_steps", "v_lr", "v_weight_decay", "kl_factor", "clamp_norm_factor")


def value_cache_keys(
    model: str,
    prompts: Sequence[FactPrompts],
    hparams: NSEHyperParams,
    groups: Sequence[Sequence[int]] = (),
    has_norms: bool = False,
) -> list[str]:
    """Return the key of every fact's z. model: `ModelIdentity.full` of the unedited model. groups: facts (indices) that
    share a value, so that each one's z depends on the rows of all. has_norms: the model's layers normalise `W_out`'s
    output, so that z is kept in the reach of all edited layers."""
    settings = {name: getattr(hparams, name) for name in VALUE_SETTINGS}
    if hparams.solver != "exact":
        settings["solver"] = [hparams.solver, CONTEXTS, SHARE, LONGER, BETAS[hparams.solver]]
    if hparams.z_stop != "loss":
        settings["z_stop"] = hparams.z_stop
    if has_norms:
        settings["layers"] = hparams.layers
    shared = {"value": VALUES, "model": model, "layer": hparams.layers[-1], **settings}
    rows = [[_row(row) for row in (*fact.rewrites, fact.essence)] for fact in prompts]
    long = {"long": LONG}
    asked = [{**shared, "rows": own, **(long if fact.in_chat else {})} for own, fact in zip(rows, prompts, strict=True)]
    for group in groups:
        if len(group) > 1:
            together = {**long, "group": [rows[place] for place in group]}
            for place in group:
                asked[place] |= together
    return [hash_of(one) for one in asked]


def _row(prompt: EncodedPrompt) -> dict[str, Any]:
    return {"ids": prompt.ids, "lookup": prompt.lookup, "targets": prompt.targets}
