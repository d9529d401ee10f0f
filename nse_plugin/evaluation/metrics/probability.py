"""Efficacy, Generalization and Specificity: is the new target more probable than the true one, and by how much?

The definitions are those of ROME (Meng et al. 2022, arXiv 2202.05262, section 3.4: ES, PS, NS and the magnitudes EM,
PM, NM) and MEMIT (arXiv 2210.07229, section 5.2.2), which the NSE paper also uses. P(target) is the geometric mean of
the probabilities of the target's tokens, so that targets of different lengths are comparable.
"""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from nse_plugin.evaluation.teacher_forcing import Predictions, mean_or_nan, predict
from nse_plugin.facts import Fact, FactError, Pair
from nse_plugin.models.chat import PLAIN, Frame

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

METRICS = ("efficacy", "generalization", "specificity")
MAGNITUDES = tuple(f"{metric}_magnitude" for metric in METRICS)


def score_facts(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], tokens_per_batch: int = 1024
) -> pd.DataFrame:
    """Score every fact on the model in its current state. Returns one row per fact, in the given order, with `case_id`
    and the `scores`.

    Raises FactError if there are no facts, or one has no target_true.
    """
    if not facts:
        raise FactError("facts is empty: scoring needs at least one fact.")
    predictions = predict(model, tokenizer, [pair for fact in facts for pair in pairs(fact)], tokens_per_batch)
    frame = pd.DataFrame([scores(fact, predictions) for fact in facts])
    frame.insert(0, "case_id", [fact.case_id for fact in facts])
    return frame


def mean_scores(frame: pd.DataFrame) -> dict[str, float]:
    """Return the mean of each metric of a frame with one row per fact. NaN is skipped; a metric without any value is
    omitted.

    If efficacy, generalization and specificity are present, `score` is added, their `harmonic_mean`.
    """
    means = frame.drop(columns="case_id", errors="ignore").astype(float).mean().dropna()
    summary = {str(metric): float(value) for metric, value in means.items()}
    if summary.keys() >= set(METRICS):
        summary["score"] = harmonic_mean(*(summary[metric] for metric in METRICS))
    return summary


def harmonic_mean(efficacy: float, generalization: float, specificity: float) -> float:
    """Return ROME's score, the harmonic mean of the three metrics; 0 if one of them is 0."""
    return statistics.harmonic_mean([efficacy, generalization, specificity])


def scores(fact: Fact, predictions: Predictions, frames: Sequence[Frame] = (PLAIN,)) -> dict[str, float]:
    """Return `METRICS` and `MAGNITUDES` of one fact. `efficacy`: 1.0 if P(target_new) > P(target_true) after the fact's
    own prompt, else 0.0; `generalization`: the same, averaged over its rephrase prompts; `specificity`: the share of
    its locality prompts with P(true answer) > P(target_new). `..._magnitude`: the mean difference of the two
    probabilities, positive if the expected one is larger.

    predictions: at least those of `pairs(fact, frames)`. frames: plain text or chats around the prompts; values are
    averaged over all frames. A metric is NaN if the fact has no such prompts.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for frame, (metric, prompt, winner, loser) in itertools.product(frames, _contests(fact)):
        winning, losing = (predictions[frame.asked(fact, prompt, target)] for target in (winner, loser))
        values[metric].append(float(winning.log_probability > losing.log_probability))
        values[f"{metric}_magnitude"].append(winning.probability - losing.probability)
    return {name: mean_or_nan(values[name]) for name in (*METRICS, *MAGNITUDES)}


def pairs(fact: Fact, frames: Sequence[Frame] = (PLAIN,)) -> list[Pair]:
    """Return the pairs whose predictions `scores` needs. Raises FactError if the fact has no target_true."""
    contests = itertools.product(frames, _contests(fact))
    return [frame.asked(fact, prompt, target) for frame, (_, prompt, *targets) in contests for target in targets]


def _contests(fact: Fact) -> list[tuple[str, str, str, str]]:
    """Return tuples of metric, prompt, the target that should be more probable, and the other target."""
    new, true = fact.target_new, fact.target_true
    if true is None:
        raise FactError(f"fact {fact.case_id}: target_true is None: scoring needs it, please give it.")
    return [
        ("efficacy", fact.text, new, true),
        *(("generalization", prompt, new, true) for prompt in fact.rephrase_prompts),
        *(("specificity", prompt, answer, new) for prompt, answer in fact.locality_prompts),
    ]
