"""Efficacy, Generalization and Specificity, compared with scoring one prompt and target at a time.

The one-by-one evaluation runs the head at every position. Each fact has two rephrased prompts and ten neighbours; the
one-by-one evaluation is timed on four facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.clock import cpu_seconds, in_turns, stage
from benchmarks.comparisons.row import OURS, Peer, Plan, Row, agree
from benchmarks.facts import make_facts
from benchmarks.setting import Setting
from nse_plugin.evaluation.metrics.probability import pairs, score_facts
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.facts import Pair
from nse_plugin.models.prompts import split_target

FACTS, NEIGHBOURS, SAMPLE = 100, 10, 4
ONE_BY_ONE = "one by one"
TOLERANCE = 1e-3


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield the stage `evaluation`."""
    (n,) = plan.counts(FACTS)
    facts = make_facts(n, neighbours=NEIGHBOURS)
    model, tokenizer = setting.model, setting.tokenizer
    sample = facts[:SAMPLE]
    asked = [pair for fact in sample for pair in pairs(fact)]
    together = predict(model, tokenizer, asked)
    found = torch.tensor([together[pair].log_probability for pair in asked])
    difference = agree(found, torch.tensor(_one_by_one(model, tokenizer, asked)), TOLERANCE, "log-probabilities")

    def alone() -> dict[str, float]:
        return {"evaluation": cpu_seconds(_one_by_one, model, tokenizer, asked) * n / len(sample)}

    runs = {ONE_BY_ONE: alone, OURS: stage("evaluation", score_facts, model, tokenizer, facts)}
    yield Row.of("evaluation", "evaluation", n, 3, ONE_BY_ONE, in_turns(runs, plan.repeats, budget=60), difference)


def _one_by_one(model: Any, tokenizer: Any, asked: Iterable[Pair]) -> list[float]:
    """Return the mean log-probability of the target's tokens for each pair of prompt and target."""
    found = []
    for pair in asked:
        before, after = split_target(tokenizer, *pair)
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([[*before, *after]])).logits[0].log_softmax(dim=-1)
        found.append(float(log_probs[range(len(before) - 1, len(before) + len(after) - 1), after].mean()))
    return found
