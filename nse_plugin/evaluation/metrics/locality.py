"""Drift of locality: how far the answers that should not change are from the UNEDITED model's.

Specificity and locality accuracy ask whether an answer is right; a model that never knew it cannot lose it. Drift
compares with what the model itself predicted before any edit, right or wrong.
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
    """What the unedited model predicts at the answers of all locality prompts, by (prompt, answer)."""
    return predict(model, tokenizer, [pair for fact in facts for pair in pairs(fact)], tokens_per_batch)


def locality_drift(
    reference: Predictions,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    tokens_per_batch: int = 1024,
) -> pd.DataFrame:
    """One row a fact, in the order given; columns `case_id`, and those of `scores`.

    reference: of `locality_reference`, for at least these facts, on the same model before any edit.
    """
    predictions = locality_reference(model, tokenizer, facts, tokens_per_batch)
    frame = pd.DataFrame([scores(fact, predictions, reference) for fact in facts], columns=list(METRICS))
    frame.insert(0, "case_id", [fact.case_id for fact in facts])
    return frame


def scores(fact: Fact, predictions: Predictions, reference: Predictions) -> dict[str, float]:
    """`locality_agreement`: the share of an answer's positions where the most likely token is still the unedited
    model's (EasyEdit's locality), and `locality_shift`: the absolute change of the answer's mean log-probability
    (nats); both averaged over the fact's locality prompts, NaN without any.

    predictions, reference: of `pairs(fact)`, and maybe others, on the model now and on the unedited one.
    Raises ValueError when the reference is not of this fact or of another tokenizer.
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
    """What `scores` needs predicted."""
    return [fact.asked(prompt, answer) for prompt, answer in fact.locality_prompts]


def to_json(reference: Predictions) -> list[dict[str, object]]:
    """A reference as `json.dump` takes it; `from_json` reads it back, equal to the last bit."""
    return [{"pair": list(pair), **dataclasses.asdict(prediction)} for pair, prediction in reference.items()]


def from_json(entries: Iterable[Mapping[str, Any]]) -> dict[Pair, Prediction]:
    """The reference that `to_json` wrote."""
    return {
        tuple(entry["pair"]): Prediction(entry["log_probability"], tuple(entry["target"]), tuple(entry["best"]))
        for entry in entries
    }
