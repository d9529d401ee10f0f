"""Free-running (not teacher-forced) generation: greedy text up to its natural stop.

Teacher forcing gives the model the target's own tokens and its length. Here, as in WILD (Yang et al. 2025, arXiv
2502.11177, section 4), the model writes freely and stops by itself; its answer must equal or contain the target.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from nse_plugin.evaluation.metrics.judge import Judge
from nse_plugin.evaluation.teacher_forcing import mean_or_nan
from nse_plugin.facts import Fact
from nse_plugin.models.batching import batches_by_length
from nse_plugin.models.chat import PLAIN, Frame, chat_frame
from nse_plugin.models.writing.generation import encoded, greedy_answers

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

METRICS = ("generation_exact", "generation_contains", "rephrase_contains")
JUDGED = "generation_judged"
TOKENS = 30  # maximum per answer
ARTICLES = {"a", "an", "the"}
# Scripts without spaces between words, in which letters do not show where a word ends.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# WILD stops at a full stop, a newline, or an end-of-text token, which base models rarely write. A full stop within a
# word ("4.5"), or after one or two letters that begin with a capital ("D.C.", "St. Louis", "J. Smith"), is not the end
# of a sentence: scoring one sentence too many is better than scoring half a name.
_SENTENCE_END = re.compile(r"(?<!\b[^\W\d_a-z])(?<!\b[A-Z][a-z])[.!?](?=\s|$)|\n|[\u3002\uff01\uff1f]")


@dataclass(frozen=True)
class Generation:
    """Settings of `free_generation`.

    chat: ask in the model's chat template. facts: for how many of all facts, evenly spaced, the model writes; None: for
    all. judge: a language model that also grades the answers; None: no judge.
    """

    chat: bool = False
    facts: int | None = None
    judge: Judge | None = None

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ValueError if chat is set without a chat template, JudgeError if the judge does not answer."""
        if self.chat:
            chat_frame(tokenizer)
        if self.judge is not None:
            self.judge.check()


def free_generation(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    *,
    chat: bool = False,
    judge: Judge | None = None,
    tokens_per_batch: int = 1024,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the model write after each fact's own prompt and its rephrase prompts, and score the answers.

    chat: put each prompt into the user's turn of the tokenizer's chat template. judge: a language model that also
    grades the answers to the facts' own prompts. tokens_per_batch bounds rows x longest prompt.

    Returns two frames. The first has one row per fact, in the given order: `generation_exact`, 1.0 if the answer up to
    its `natural_stop` `equals` target_new, else 0.0; `generation_contains`, 1.0 if the whole answer `contains`
    target_new, else 0.0; `rephrase_contains`, the mean of the same over the rephrase prompts, NaN if there are none;
    with a judge also `generation_judged`, its verdict (1.0 or 0.0) on the answer up to its natural stop. The second has
    one row per prompt, each fact's own first: fact (its row), prompt, text (the answer without the prompt).
    Raises ValueError if `chat` is set and the tokenizer has no chat template, or as `answers` does; JudgeError if the
    judge fails.
    """
    texts = own_and_rephrase_prompts(facts)
    frame = chat_frame(tokenizer) if chat else PLAIN
    texts["text"] = answers(model, tokenizer, list(texts["prompt"]), frame=frame, tokens_per_batch=tokens_per_batch)
    written = [list(texts["text"][texts["fact"] == row]) for row in range(len(facts))]
    found = [scores(fact, *own) for fact, own in zip(facts, written, strict=True)]
    scored = pd.DataFrame(found, columns=list(METRICS))
    if judge is not None:
        own_answers = [natural_stop(own[0]) for own in written]
        verdicts = judge.verdicts([fact.text for fact in facts], [fact.target_new for fact in facts], own_answers)
        scored[JUDGED] = [float(verdict) for verdict in verdicts]
    return scored, texts


def own_and_rephrase_prompts(facts: Sequence[Fact]) -> pd.DataFrame:
    """Return one row per prompt, each fact's own first: fact (its row), prompt."""
    asked = [(row, prompt) for row, fact in enumerate(facts) for prompt in (fact.text, *fact.rephrase_prompts)]
    return pd.DataFrame(asked, columns=["fact", "prompt"])


def scores(fact: Fact, answer: str, *rephrased: str) -> dict[str, float]:
    """Return `METRICS` of one fact. answer, rephrased: the answers to its own prompt and to its rephrase prompts."""
    return {
        "generation_exact": float(equals(natural_stop(answer), fact.target_new)),
        "generation_contains": float(contains(answer, fact.target_new)),
        "rephrase_contains": mean_or_nan([float(contains(text, fact.target_new)) for text in rephrased]),
    }


def answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    frame: Frame = PLAIN,
    tokens: int = TOKENS,
    tokens_per_batch: int = 1024,
) -> list[str]:
    """Return the stripped `greedy_texts`. Raises ValueError as `greedy_texts` does."""
    texts = greedy_texts(model, tokenizer, prompts, frame=frame, tokens=tokens, tokens_per_batch=tokens_per_batch)
    return [text.strip() for text in texts]


def greedy_texts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    frame: Frame = PLAIN,
    tokens: int = TOKENS,
    tokens_per_batch: int = 1024,
) -> list[str]:
    """Generate text greedily after each prompt, up to an end-of-text or end-of-turn token or `tokens` tokens; returns
    the texts without the prompts. They are never cut to a target's length. Batching changes nothing but rounding.

    frame: the chat around the prompts, or plain text. Raises ValueError if a prompt has no tokens, or leaves no room
    for `tokens` more in the model's positions.
    """
    if frame is PLAIN:
        prompts = [prompt.rstrip(" ") for prompt in prompts]  # a trailing space belongs to the next token
    rows = [encoded(model, tokenizer, prompt, tokens, frame) for prompt in prompts]
    ends = _end_tokens(model, tokenizer)
    texts: dict[int, str] = {}
    for chosen in batches_by_length([len(row) for row in rows], tokens_per_batch):
        answered = greedy_answers(model, [rows[i] for i in chosen], tokens, ends)
        decoded = tokenizer.batch_decode(answered, skip_special_tokens=True)
        texts |= dict(zip(chosen, decoded, strict=True))
    return [texts[i] for i in range(len(rows))]


def natural_stop(text: str) -> str:
    """Return the text's first sentence, with its end mark, or its first line, whichever is shorter, stripped."""
    text = text.strip()  # some models begin their answer with a newline
    end = _SENTENCE_END.search(text)
    return text[: end.end()].rstrip() if end else text


def equals(text: str, target: str) -> bool:
    """Return whether both have the same words, ignoring case, punctuation and articles (SQuAD's exact match, Rajpurkar
    et al. 2016, arXiv 1606.05250, section 6.1)."""
    return _normalized(text) == _normalized(target)


def contains(text: str, target: str) -> bool:
    """Return whether the target occurs in the text as whole words, ignoring case: "Paris" is in "It is Paris's.", but
    not in "a Parisian". A text that `equals` the target contains it."""
    where, what = _folded(text), _folded(target)
    start = where.find(what)
    while start >= 0:
        end = start + len(what)
        if _is_edge(where[start - 1 : start], what[:1]) and _is_edge(where[end : end + 1], what[-1:]):
            return True
        start = where.find(what, start + 1)
    return equals(text, target)


def begins(text: str, target: str) -> bool:
    """Return whether the text begins with the target's words, ignoring case, punctuation and articles. A text that
    `equals` the target begins with it."""
    where, what = _normalized(text), _normalized(target)
    return where.startswith(what) and _is_edge(where[len(what) : len(what) + 1], what[-1:])


def _normalized(text: str) -> str:
    folded = _folded(text)
    words = "".join(letter for letter in folded if unicodedata.category(letter)[0] != "P").split()
    # a text of only punctuation and articles ("The The") keeps them
    return " ".join(word for word in words if word not in ARTICLES) or folded


def _folded(text: str) -> str:
    """Normalise case, white space and Unicode (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _is_edge(outside: str, inside: str) -> bool:
    """Return whether a word may end between two adjacent characters. outside: "" at the start or end of the text."""
    return not (_in_word(outside) and _in_word(inside))


def _in_word(letter: str) -> bool:
    if not letter or unicodedata.category(letter)[0] not in "LMN":
        return False
    return not unicodedata.name(letter, "").startswith(UNSPACED)


def _end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end a text or a turn; a chat model's generation_config lists several."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])} - {None}
