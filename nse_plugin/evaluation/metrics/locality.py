"""Locality drift: how far the answers to locality prompts have moved from the UNEDITED model's predictions.

Specificity and locality accuracy measure whether an answer is correct, which says nothing about answers that the model
never knew. Drift compares with the model's own predictions before any edit, right or wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from nse_plugin.evaluation.teacher_forcing import Prediction, Predictions, mean_or_nan, predict, share_of_equal
from nse_plugin.facts import Fact, Pair

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

METRICS = ("locality_agreement", "locality_shift")


def locality_reference(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], tokens_per_batch: int = 1024
) -> dict[Pair, Prediction]:
    """Predict the answers of all locality prompts with the unedited model. Returns predictions by (prompt, answer)."""
    return predict(model, tokenizer, [pair for fact in facts for pair in pairs(fact)], tokens_per_batch)


def locality_drift(
    reference: Predictions,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    tokens_per_batch: int = 1024,
) -> pd.DataFrame:
    """Compute the locality drift of an edited model: one row per fact, in the given order, with `case_id` and the
    `scores`.

    reference: result of `locality_reference`, for at least these facts, on the same model before any edit. Raises
    ValueError if it lacks a locality prompt or is from another tokenizer.
    """
    predictions = locality_reference(model, tokenizer, facts, tokens_per_batch)
    frame = pd.DataFrame([scores(fact, predictions, reference) for fact in facts], columns=list(METRICS))
    frame.insert(0, "case_id", [fact.case_id for fact in facts])
    return frame


def scores(fact: Fact, predictions: Predictions, reference: Predictions) -> dict[str, float]:
    """Return the locality drift of one fact. `locality_agreement`: the share of an answer's positions at which the most
    likely token is still that of the unedited model (EasyEdit's locality); `locality_shift`: the absolute change of the
    answer's mean log-probability (nats). Both are averaged over the fact's locality prompts, NaN if there are none.

    predictions, reference: at least those of `pairs(fact)`, by the edited and by the unedited model.
    Raises ValueError if the reference lacks a locality prompt of the fact or is from another tokenizer.
    """
    agreement, shift = [], []
    for pair in pairs(fact):
        now, before = predictions[pair], reference.get(pair)
        if before is None or before.target != now.target:
            raise ValueError(
                f"fact {fact.case_id}: the reference does not hold the locality prompt {pair[0]!r} with this answer "
                "and tokenizer: make it from all the facts with locality_reference, on the unedited model."
            )
        agreement.append(share_of_equal(now.best, before.best))
        shift.append(abs(now.log_probability - before.log_probability))
    return {"locality_agreement": mean_or_nan(agreement), "locality_shift": mean_or_nan(shift)}


def pairs(fact: Fact) -> list[Pair]:
    """Return the (prompt, answer) pairs whose predictions `scores` needs."""
    return [fact.asked(prompt, answer) for prompt, answer in fact.locality_prompts]


def to_json(reference: Predictions) -> list[dict[str, object]]:
    """Convert a reference for `json.dump`; `from_json` restores it exactly."""
    return [{"pair": list(pair), **dataclasses.asdict(prediction)} for pair, prediction in reference.items()]


def from_json(entries: Iterable[Mapping[str, Any]]) -> dict[Pair, Prediction]:
    """Restore a reference from the result of `to_json`."""
    return {
        tuple(entry["pair"]): Prediction(entry["log_probability"], tuple(entry["target"]), tuple(entry["best"]))
        for entry in entries
    }
