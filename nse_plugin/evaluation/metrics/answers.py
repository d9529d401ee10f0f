"""Whole answers: the generated text up to the first full stop or newline, compared with the target.

The protocol of LocFT-BF (Yang et al. 2026, arXiv 2509.22072; its eval_edit_metric.py): greedy text of at most 32 tokens
after the bare prompt, ended by ".", a newline or an end of text. The whole answer must equal the target, by SQuAD's
exact match, so a model that continues after the target is wrong. A target with a full stop inside it cannot match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from nse_plugin.evaluation.metrics.generation import begins, equals, greedy_texts, own_and_rephrase_prompts
from nse_plugin.evaluation.teacher_forcing import mean_or_nan
from nse_plugin.facts import Fact

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

METRICS = ("answer_exact", "answer_rephrase_exact", "answer_begins")
TOKENS = 32  # maximum per answer
_STOP = re.compile(r"[.\n]")


def whole_answers(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], *, tokens_per_batch: int = 1024
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the model answer each fact's own prompt and its rephrase prompts, and score the answers.

    Returns two frames. The first contains the `scores`, one row per fact in the given order. The second has one row per
    prompt, each fact's own first: fact (its row), prompt, text (all of the up to 32 tokens; the answer is
    `stopped(text)`). Raises ValueError as `greedy_texts` does.
    """
    texts = own_and_rephrase_prompts(facts)
    prompts = list(texts["prompt"])
    texts["text"] = greedy_texts(model, tokenizer, prompts, tokens=TOKENS, tokens_per_batch=tokens_per_batch)
    answers = texts["text"].map(stopped)
    found = [scores(fact, *answers[texts["fact"] == row]) for row, fact in enumerate(facts)]
    return pd.DataFrame(found, columns=list(METRICS)), texts


def scores(fact: Fact, answer: str, *rephrased: str) -> dict[str, float]:
    """Return `METRICS` of one fact. `answer_exact`: 1.0 if the answer to its own prompt `equals` target_new, else 0.0;
    `answer_rephrase_exact`: the mean of the same over the rephrase prompts, NaN if there are none; `answer_begins`: 1.0
    if the answer to its own prompt `begins` with target_new (it would be exact if the model stopped there), else 0.0.

    answer, rephrased: the answers to the fact's own prompt and to its rephrase prompts."""
    return {
        "answer_exact": float(equals(answer, fact.target_new)),
        "answer_rephrase_exact": mean_or_nan([float(equals(text, fact.target_new)) for text in rephrased]),
        "answer_begins": float(begins(answer, fact.target_new)),
    }


def stopped(text: str) -> str:
    """Return the text before its first full stop or newline, stripped. The answer is empty if the text begins with a
    newline."""
    return _STOP.split(text, maxsplit=1)[0].strip()
