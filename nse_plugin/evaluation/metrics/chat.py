"""What the users of a chat model see: a fact's prompt is their message, in the model's chat template.

A plain text continues its prompt; an assistant begins a new sentence. So what was written in one form
is asked in the other too: what the assistant answers freely, and, teacher-forced, the target as its first words, and
where it has begun to repeat the prompt.
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
    """How the model is asked in a chat.

    template: the name of one of several chat templates; None: the usual one. facts: how many of all the facts the
    assistant answers freely, evenly spaced; None: all.
    """

    template: str | None = None
    facts: int | None = None

    def frame(self, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """Where the prompts are asked. Raises FactError when there is no such chat template."""
        asked = "metrics has chat" if self.template is None else f"metrics.chat.template is {self.template!r}"
        return chat_frame(tokenizer, self.template, asked=asked, off="leave chat out of metrics")


def scores(fact: Fact, predictions: Predictions, frame: Frame) -> dict[str, float]:
    """`chat_efficacy`: 1.0 when P(target_new) > P(target_true) where the assistant has begun to repeat the prompt, else
    0.0, NaN without a target_true; `chat_accuracy`: the share of target_new's tokens that are the most likely ones
    there; `chat_first_token`: 1.0 when the assistant's most likely first token is that of target_new, else 0.0.

    predictions: of `pairs(fact, frame)`, and maybe others.
    """
    first, new, *true = (predictions[pair] for pair in pairs(fact, frame))
    return {
        "chat_efficacy": float(new.log_probability > true[0].log_probability) if true else math.nan,
        "chat_accuracy": new.accuracy,
        "chat_first_token": float(first.is_begun),
    }


def pairs(fact: Fact, frame: Frame) -> list[Pair]:
    """What `scores` needs predicted: target_new as the assistant's first words, then the targets where it has begun to
    repeat the prompt."""
    begun = [fact.asked(frame.begun(fact.text), target) for target in (fact.target_new, fact.target_true) if target]
    return [frame.asked(fact, fact.text, fact.target_new), *begun]


def answered(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    frame: Frame,
    tokens_per_batch: int = 1024,
) -> tuple[pd.DataFrame, list[str]]:
    """What the assistant answers freely to every fact's prompt, as `generation.answers` writes it, and its scores,
    a row a fact: `chat_states_new`, 1.0 when the answer `contains` target_new, else 0.0; `chat_names_old`, the same of
    target_true, NaN without one. Raises ValueError as `answers` does."""
    texts = answers(model, tokenizer, [fact.text for fact in facts], frame=frame, tokens_per_batch=tokens_per_batch)
    pairs = list(zip(facts, texts, strict=True))
    states = [float(contains(text, fact.target_new)) for fact, text in pairs]
    names = [float(contains(text, fact.target_true)) if fact.target_true else math.nan for fact, text in pairs]
    return pd.DataFrame(dict(zip(WRITTEN, (states, names), strict=True))), texts
