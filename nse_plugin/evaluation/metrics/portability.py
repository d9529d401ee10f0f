"""Portability and reversal: what follows from a fact, and the fact in the reverse direction, teacher-forced.

Portability (Yao et al. 2023, arXiv 2305.13172, section 5.1) asks what a reader of the new fact could conclude, such
as a question one hop further. Reversal (Ma et al. 2023, arXiv 2310.10322) asks for the subject, given the target:
after "The capital of France is Lyon", what is Lyon the capital of?
"""

from __future__ import annotations

from nse_plugin.evaluation.teacher_forcing import Predictions, mean_or_nan
from nse_plugin.facts import Fact, Pair

METRICS = ("portability_accuracy", "portability_probability", "reversal_accuracy", "reversal_probability")


def scores(fact: Fact, predictions: Predictions) -> dict[str, float]:
    """`..._accuracy`: the share of an answer's tokens that the model holds most likely; `..._probability`: the
    geometric mean of their probabilities; both averaged over the fact's prompts of that kind.

    predictions: of `pairs(fact)`, and maybe others. NaN where the fact has no such prompts.
    """
    found: dict[str, float] = {}
    for kind, asked in (("portability", fact.portability_prompts), ("reversal", fact.reversal_prompts)):
        predicted = [predictions[fact.asked(prompt, answer)] for prompt, answer in asked]
        found[f"{kind}_accuracy"] = mean_or_nan([one.accuracy for one in predicted])
        found[f"{kind}_probability"] = mean_or_nan([one.probability for one in predicted])
    return found


def pairs(fact: Fact) -> list[Pair]:
    """What `scores` needs predicted."""
    asked = (*fact.portability_prompts, *fact.reversal_prompts)
    return [fact.asked(prompt, answer) for prompt, answer in asked]
