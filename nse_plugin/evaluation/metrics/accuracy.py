"""Teacher-forced token accuracy: the share of a target's tokens that are the model's most likely tokens.

ROME and MEMIT (arXiv 2210.07229, section 5.1.2) score zsRE with it, and EasyEdit scores every dataset with it
(`rewrite_acc`, `rephrase_acc`). Each token is predicted from the prompt and the target's true tokens before it.
"""

from __future__ import annotations

from nse_plugin.evaluation.teacher_forcing import Predictions, mean_or_nan
from nse_plugin.facts import Fact, Pair

METRICS = ("rewrite_accuracy", "rephrase_accuracy", "locality_accuracy")


def scores(fact: Fact, predictions: Predictions) -> dict[str, float]:
    """Return the token accuracies of one fact. `rewrite_accuracy`: of target_new after the fact's own prompt;
    `rephrase_accuracy`: of target_new, averaged over its rephrase prompts; `locality_accuracy`: of the true answers,
    averaged over its locality prompts.

    predictions: at least those of `pairs(fact)`. A metric is NaN if the fact has no such prompts.
    """
    asked = zip(METRICS, _pairs_by_metric(fact), strict=True)
    return {metric: mean_or_nan([predictions[pair].accuracy for pair in chosen]) for metric, chosen in asked}


def pairs(fact: Fact) -> list[Pair]:
    """Return the (prompt, target) pairs whose predictions `scores` needs."""
    return [pair for chosen in _pairs_by_metric(fact) for pair in chosen]


def _pairs_by_metric(fact: Fact) -> tuple[list[Pair], list[Pair], list[Pair]]:
    own, *rephrased = [fact.asked(prompt, fact.target_new) for prompt in (fact.text, *fact.rephrase_prompts)]
    return [own], rephrased, [fact.asked(prompt, answer) for prompt, answer in fact.locality_prompts]
