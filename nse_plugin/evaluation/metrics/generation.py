"""Free-running (not teacher-forced) generation: greedy text up to its natural stop.

Teacher-forced scores hand the model the target's own tokens and its length. Here, as in WILD (Yang et al. 2025, arXiv
2502.11177, section 4), it writes freely and stops by itself; what it wrote must equal the target, or hold it.
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
TOKENS = 30  # at most, of one answer
ARTICLES = {"a", "an", "the"}
# Scripts that put no spaces between words: within them, word ends cannot be seen from letters.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# WILD stops at a full stop, a line's end, or an end-of-text token: base models rarely write the latter. A full stop
# within a word ("4.5") or after at most two letters, the first a capital ("D.C.", "St. Louis", "J. Smith"), is not
# the end of a sentence; one more sentence scored is better than half a name.
_SENTENCE_END = re.compile(r"(?<!\b[^\W\d_a-z])(?<!\b[A-Z][a-z])[.!?](?=\s|$)|\n|[\u3002\uff01\uff1f]")


@dataclass(frozen=True)
class Generation:
    """How the model is asked to write for `free_generation`.

    chat: in its chat template. facts: how many of all the facts it writes of, evenly spaced; None: all. judge: reads
    the answers too.
    """

    chat: bool = False
    facts: int | None = None
    judge: Judge | None = None

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise ValueError when there is no chat template for chat, JudgeError when the judge does not answer."""
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
    """Let the model write after each fact's own and its rephrase prompts, and score what it wrote.

    chat: ask in a user's turn of the tokenizer's chat template. judge: a language model that reads the answers to the
    facts' own prompts too. tokens_per_batch bounds rows x longest prompt.

    Returns two frames. A row per fact, in the order given: `generation_exact`, 1.0 when the answer up to its
    `natural_stop` `equals` target_new, else 0.0; `generation_contains`, the same of the whole answer and `contains`;
    `rephrase_contains`, its mean over the rephrase prompts, NaN without any; with a judge also `generation_judged`, its
    verdict on the answer up to its natural stop. And a row per prompt, the fact's own first:
    fact (its row), prompt, text (the answer alone).
    Raises ValueError when chat is asked of a tokenizer without a chat template, and as `answers` does, JudgeError as
    the judge does.
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
    """A row per prompt, each fact's own first: fact (its row), prompt."""
    asked = [(row, prompt) for row, fact in enumerate(facts) for prompt in (fact.text, *fact.rephrase_prompts)]
    return pd.DataFrame(asked, columns=["fact", "prompt"])


def scores(fact: Fact, answer: str, *rephrased: str) -> dict[str, float]:
    """`METRICS` of one fact: answer, to its own prompt; rephrased, to its rephrase prompts."""
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
    """`greedy_texts` without the white space around them."""
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
    """What the model writes greedily after each prompt, without the prompt: up to an end-of-text or end-of-turn token,
    or `tokens` tokens. Never cut to a target's length. Batching changes nothing but rounding.

    frame: where the prompts are asked. Raises ValueError when a prompt leaves no room for the answer among the model's
    positions.
    """
    if frame is PLAIN:
        prompts = [prompt.rstrip(" ") for prompt in prompts]  # a last space is a part of the token that is to come
    rows = [encoded(model, tokenizer, prompt, tokens, frame) for prompt in prompts]
    ends = _end_tokens(model, tokenizer)
    texts: dict[int, str] = {}
    for chosen in batches_by_length([len(row) for row in rows], tokens_per_batch):
        answered = greedy_answers(model, [rows[i] for i in chosen], tokens, ends)
        decoded = tokenizer.batch_decode(answered, skip_special_tokens=True)
        texts |= dict(zip(chosen, decoded, strict=True))
    return [texts[i] for i in range(len(rows))]


def natural_stop(text: str) -> str:
    """The text's first sentence or line, without the white space around it; a sentence keeps its mark."""
    text = text.strip()  # some models begin a new line before they answer
    end = _SENTENCE_END.search(text)
    return text[: end.end()].rstrip() if end else text


def equals(text: str, target: str) -> bool:
    """Whether the two are the same words, apart from case, punctuation and articles (SQuAD's exact match, Rajpurkar et
    al. 2016, arXiv 1606.05250, section 6.1)."""
    return _normalized(text) == _normalized(target)


def contains(text: str, target: str) -> bool:
    """Whether the target's words occur in the text, whole and in order, in any case: "Paris" is in "It is Paris's.",
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
    """Whether the text begins with the target's words, apart from case, punctuation and articles. A text that `equals`
    the target begins with it."""
    where, what = _normalized(text), _normalized(target)
    return where.startswith(what) and _is_edge(where[len(what) : len(what) + 1], what[-1:])


def _normalized(text: str) -> str:
    folded = _folded(text)
    words = "".join(letter for letter in folded if unicodedata.category(letter)[0] != "P").split()
    # a target of nothing but marks or articles ("The The") is left unchanged
    return " ".join(word for word in words if word not in ARTICLES) or folded


def _folded(text: str) -> str:
    """Without differences of case, of Unicode's ways to write a letter, and of white space."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _is_edge(outside: str, inside: str) -> bool:
    """Whether a word may end between two neighbouring letters; outside: "" at the text's end."""
    return not (_in_word(outside) and _in_word(inside))


def _in_word(letter: str) -> bool:
    if not letter or unicodedata.category(letter)[0] not in "LMN":
        return False
    return not unicodedata.name(letter, "").startswith(UNSPACED)


def _end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text or a turn; a chat model's generation_config lists several."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])} - {None}
