"""Facts asked in a chat: the fact's prompt is the user's message, in the model's chat template.

A plain text continues its prompt, but an assistant begins a new sentence, so an edit made in one form is also measured
in the other: the assistant's free answer and, teacher-forced, the target at the beginning of its answer and after it
has begun to repeat the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from nse_plugin.evaluation.metrics.generation import answers, contains
from nse_plugin.evaluation.teacher_forcing import Predictions
from nse_plugin.facts import Fact, Pair
from nse_plugin.models.chat import Frame, chat_frame

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

FORCED = ("chat_efficacy", "chat_accuracy", "chat_first_token")
WRITTEN = ("chat_states_new", "chat_names_old")
METRICS = (*FORCED, *WRITTEN)


@dataclass(frozen=True)
class Chat:
    """Settings of the questions asked in a chat.

    template: the name of one of several chat templates; None: the default template. facts: for how many of all facts,
    evenly spaced, the assistant answers freely; None: for all.
    """

    template: str | None = None
    facts: int | None = None

    def frame(self, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Return the frame of the chat around a prompt. Raises FactError if the tokenizer has no such chat template."""
        asked = "metrics has chat" if self.template is None else f"metrics.chat.template is {self.template!r}"
        return chat_frame(tokenizer, self.template, asked=asked, off="leave chat out of metrics")


def scores(fact: Fact, predictions: Predictions, frame: Frame) -> dict[str, float]:
    """Return the teacher-forced metrics of one fact. `chat_efficacy`: 1.0 if P(target_new) > P(target_true) after the
    assistant has begun to repeat the prompt, else 0.0, NaN without a target_true; `chat_accuracy`: the share of
    target_new's tokens that are the most likely ones, after the same text; `chat_first_token`: 1.0 if the most likely
    first token of the assistant's answer is that of target_new, else 0.0.

    predictions: at least those of `pairs(fact, frame)`.
    """
    first, new, *true = (predictions[pair] for pair in pairs(fact, frame))
    return {
        "chat_efficacy": float(new.log_probability > true[0].log_probability) if true else math.nan,
        "chat_accuracy": new.accuracy,
        "chat_first_token": float(first.is_begun),
    }


def pairs(fact: Fact, frame: Frame) -> list[Pair]:
    """Return the pairs whose predictions `scores` needs: target_new at the beginning of the assistant's answer, then
    target_new and target_true after the assistant has begun to repeat the prompt."""
    begun = [fact.asked(frame.begun(fact.text), target) for target in (fact.target_new, fact.target_true) if target]
    return [frame.asked(fact, fact.text, fact.target_new), *begun]


def answered(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    frame: Frame,
    tokens_per_batch: int = 1024,
) -> tuple[pd.DataFrame, list[str]]:
    """Let the assistant answer every fact's prompt freely with `generation.answers`. Returns scores and answers.

    The scores have one row per fact: `chat_states_new`, 1.0 if the answer `contains` target_new, else 0.0;
    `chat_names_old`, the same for target_true, NaN without one. Raises ValueError as `answers` does."""
    texts = answers(model, tokenizer, [fact.text for fact in facts], frame=frame, tokens_per_batch=tokens_per_batch)
    pairs = list(zip(facts, texts, strict=True))
    states = [float(contains(text, fact.target_new)) for fact, text in pairs]
    names = [float(contains(text, fact.target_true)) if fact.target_true else math.nan for fact, text in pairs]
    return pd.DataFrame(dict(zip(WRITTEN, (states, names), strict=True))), texts
