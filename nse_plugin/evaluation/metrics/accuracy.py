"""Teacher-forced token accuracy: the share of a target's tokens that the model holds most likely.

As zsRE is scored by ROME and MEMIT (arXiv 2210.07229, section 5.1.2) and everything by EasyEdit (`rewrite_acc`,
`rephrase_acc`): each token is predicted from the prompt and the target's true tokens before it.
"""

from __future__ import annotations

from nse_plugin.evaluation.teacher_forcing import Predictions, mean_or_nan
from nse_plugin.facts import Fact, Pair

METRICS = ("rewrite_accuracy", "rephrase_accuracy", "locality_accuracy")


def scores(fact: Fact, predictions: Predictions) -> dict[str, float]:
    """`rewrite_accuracy`: of target_new after the fact's own prompt; `rephrase_accuracy`: the mean over its rephrase
    prompts; `locality_accuracy`: of the true answers after its locality prompts, the mean over these.

    predictions: of `pairs(fact)`, and maybe others. NaN where the fact has no such prompts.
    """
    asked = zip(METRICS, _pairs_by_metric(fact), strict=True)
    return {metric: mean_or_nan([predictions[pair].accuracy for pair in chosen]) for metric, chosen in asked}


def pairs(fact: Fact) -> list[Pair]:
    """What `scores` needs predicted."""
    return [pair for chosen in _pairs_by_metric(fact) for pair in chosen]


def _pairs_by_metric(fact: Fact) -> tuple[list[Pair], list[Pair], list[Pair]]:
    own, *rephrased = [fact.asked(prompt, fact.target_new) for prompt in (fact.text, *fact.rephrase_prompts)]
    return [own], rephrased, [fact.asked(prompt, answer) for prompt, answer in fact.locality_prompts]
