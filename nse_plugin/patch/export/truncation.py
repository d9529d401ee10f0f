"""Measure how many of a patch's facts hold when an adapter keeps fewer directions than the change has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from nse_plugin.evaluation.teacher_forcing import Prediction, predict
from nse_plugin.facts import Fact
from nse_plugin.patch.columns import PatchError, Which, write
from nse_plugin.patch.export.factors import factors_of
from nse_plugin.patch.patch import EditPatch
from nse_plugin.patch.weights import matrices_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def kept_at_rank(
    patch: EditPatch, model: nn.Module, tokenizer: PreTrainedTokenizerBase, rank: int
) -> dict[str, object]:
    """Count the patch's facts that hold with an adapter of `rank` directions and with the whole change.

    model: the base or the edited model; its weights are restored afterwards. Returns `rank`; `facts`, their number; and
    the numbers of facts with the adapter and with the whole change: `begun` and `begun_whole` (the target's first token
    is the most likely one), `said` and `said_whole` (all of its tokens are). Efficacy would hide the loss: below one
    direction per fact, the target stops being the most likely answer long before P(new) > P(old) fails. Raises
    PatchError if the model is neither base nor edited, the patch has no facts, or rank is not above 0.
    """
    if patch.facts is None:
        raise PatchError("the patch holds no facts (include_facts=False): make it again from its session.")
    factors = factors_of(patch, rank)
    now: Which = "new" if patch.verify(model) == "applied" else "old"
    matrices = matrices_of(model, patch.columns)
    facts = [Fact(**record) for record in patch.facts]
    try:
        write(patch.columns, matrices, "new")
        whole = _predictions(model, tokenizer, facts)
        with torch.no_grad():
            for layer, one in patch.columns.items():
                change = factors[layer].b.double() @ factors[layer].a.double()[:, one.neurons]
                columns = (one.old.double().T + change).to(one.old.dtype)
                matrices[layer].matrix[:, one.neurons] = columns.to(matrices[layer].weight.device)
        truncated = _predictions(model, tokenizer, facts)
    finally:
        write(patch.columns, matrices, now)
    return {
        "rank": next(iter(factors.values())).a.shape[0],
        "facts": len(facts),
        "begun": sum(one.is_begun for one in truncated),
        "begun_whole": sum(one.is_begun for one in whole),
        "said": sum(one.is_said for one in truncated),
        "said_whole": sum(one.is_said for one in whole),
    }


def _predictions(model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: list[Fact]) -> list[Prediction]:
    pairs = [fact.asked(fact.text, fact.target_new) for fact in facts]
    found = predict(model, tokenizer, pairs)
    return [found[pair] for pair in pairs]
