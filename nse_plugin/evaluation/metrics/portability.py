"""Portability and reversal: consequences of a fact, and the fact in the reverse direction, teacher-forced.

Portability prompts (Yao et al. 2023, arXiv 2305.13172, section 5.1) ask what a reader of the new fact could conclude,
such as a question one hop further. Reversal prompts (Ma et al. 2023, arXiv 2310.10322) ask for the subject, given the
target: after "The capital of France is Lyon", what is Lyon the capital of?
"""

from __future__ import annotations

from nse_plugin.evaluation.teacher_forcing import Predictions, mean_or_nan
from nse_plugin.facts import Fact, Pair

METRICS = ("portability_accuracy", "portability_probability", "reversal_accuracy", "reversal_probability")


def scores(fact: Fact, predictions: Predictions) -> dict[str, float]:
    """Return `METRICS` of one fact. `..._accuracy`: the share of an answer's tokens that are the model's most likely
    tokens; `..._probability`: the geometric mean of the probabilities of the answer's tokens; both averaged over the
    fact's prompts of that kind.

    predictions: at least those of `pairs(fact)`. A metric is NaN if the fact has no such prompts.
    """
    found: dict[str, float] = {}
    for kind, asked in (("portability", fact.portability_prompts), ("reversal", fact.reversal_prompts)):
        predicted = [predictions[fact.asked(prompt, answer)] for prompt, answer in asked]
        found[f"{kind}_accuracy"] = mean_or_nan([one.accuracy for one in predicted])
        found[f"{kind}_probability"] = mean_or_nan([one.probability for one in predicted])
    return found


def pairs(fact: Fact) -> list[Pair]:
    """Return the (prompt, answer) pairs whose predictions `scores` needs."""
    asked = (*fact.portability_prompts, *fact.reversal_prompts)
    return [fact.asked(prompt, answer) for prompt, answer in asked]
