"""Whole answers: what the model writes up to the first full stop or line's end, against the target.

The protocol of LocFT-BF (Yang et al. 2026, arXiv 2509.22072; its eval_edit_metric.py): greedy text of at most 32 tokens
after the bare prompt, ended by ".", a newline or an end of text. All of it must be the target, by SQuAD's exact match,
so a model that says the target and goes on is wrong. A target with a full stop in it cannot be answered.
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
TOKENS = 32  # at most, of one answer
_STOP = re.compile(r"[.\n]")


def whole_answers(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], *, tokens_per_batch: int = 1024
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the model answer each fact's own and its rephrase prompts, and score the answers.

    Returns two frames: `scores`, a row per fact in the order given; and a row per prompt, the fact's own first: fact
    (its row), prompt, text (all 32 tokens, of which the answer is what `stopped` leaves). Raises ValueError as
    `greedy_texts` does.
    """
    texts = own_and_rephrase_prompts(facts)
    prompts = list(texts["prompt"])
    texts["text"] = greedy_texts(model, tokenizer, prompts, tokens=TOKENS, tokens_per_batch=tokens_per_batch)
    answers = texts["text"].map(stopped)
    found = [scores(fact, *answers[texts["fact"] == row]) for row, fact in enumerate(facts)]
    return pd.DataFrame(found, columns=list(METRICS)), texts


def scores(fact: Fact, answer: str, *rephrased: str) -> dict[str, float]:
    """`METRICS` of one fact: `answer_exact`, 1.0 when the answer to its own prompt `equals` target_new, else 0.0;
    `answer_rephrase_exact`, the mean of the same over the rephrase prompts, NaN without any; `answer_begins`, 1.0 when
    the answer to its own prompt `begins` with target_new: the share that would be exact if the model stopped there."""
    return {
        "answer_exact": float(equals(answer, fact.target_new)),
        "answer_rephrase_exact": mean_or_nan([float(equals(text, fact.target_new)) for text in rephrased]),
        "answer_begins": float(begins(answer, fact.target_new)),
    }


def stopped(text: str) -> str:
    """The text up to its first full stop or newline, without either and without white space around it. A text that
    begins with a new line is an empty answer."""
    return _STOP.split(text, maxsplit=1)[0].strip()
