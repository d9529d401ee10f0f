"""What a comparison measures, by families of metrics: one call for a model as it is now.

The teacher-forced families (probability, accuracy, locality, probes, subjects, and of chat what is teacher-forced)
share one forward pass over the different rows of all their prompts and targets; fluency and consistency share the texts
the model writes; generation, answers and chat have their own.

A fact that a later one has replaced has no metrics: what it asks for is no longer wanted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from nse_plugin.evaluation.metrics import accuracy, answers, locality, portability, probability, subjects
from nse_plugin.evaluation.metrics import chat as in_chat
from nse_plugin.evaluation.metrics import generation as free_generation
from nse_plugin.evaluation.metrics.chat import Chat
from nse_plugin.evaluation.metrics.consistency import consistency, tfidf
from nse_plugin.evaluation.metrics.fluency import continuations, fluency, generation_prompts
from nse_plugin.evaluation.metrics.generation import Generation
from nse_plugin.evaluation.metrics.perplexity import perplexity
from nse_plugin.evaluation.metrics.probability import mean_scores
from nse_plugin.evaluation.sampling import evenly_spaced
from nse_plugin.evaluation.teacher_forcing import Predictions, predict
from nse_plugin.facts import Fact, FactError, Pair
from nse_plugin.models.chat import PLAIN, Frame, frames
from nse_plugin.support.suggestions import did_you_mean

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

FAMILIES: dict[str, tuple[str, ...]] = {
    "probability": (*probability.METRICS, *probability.MAGNITUDES),
    "accuracy": accuracy.METRICS,
    "locality": locality.METRICS,
    "probes": portability.METRICS,
    "subjects": subjects.METRICS,
    "chat": in_chat.METRICS,
    "generation": free_generation.METRICS,
    "answers": answers.METRICS,
    "fluency": ("fluency",),
    "consistency": ("consistency",),
    "perplexity": ("perplexity",),
}
PAIRS = {  # in plain text
    "probability": probability.pairs,
    "accuracy": accuracy.pairs,
    "locality": locality.pairs,
    "probes": portability.pairs,
    "subjects": subjects.pairs,
}
WRITING = ("fluency", "consistency")
CHAT = Chat()
WRITE_PLAINLY = Generation()


@dataclass(frozen=True)
class Measured:
    """One model, measured.

    facts: a row per fact, in the order given, a column per metric of `FAMILIES` that was asked for; NaN where a fact
    has no such metric; with a judge also `generation_judged`. overall: the metrics' means over the facts, `score` (see
    `mean_scores`) and perplexity; a metric without a value is left out. texts: what the model wrote; columns fact (its
    row), prompt, text (the prompt first). replaced: by fact, whether a later one has replaced it, so that it has no
    metrics (NaN).
    """

    facts: pd.DataFrame
    overall: dict[str, float]
    texts: pd.DataFrame
    replaced: pd.Series[bool]


def measure(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    families: Collection[str],
    *,
    rounds: Sequence[int] | None = None,
    reference: Predictions | None = None,
    text: str | None = None,
    text_tokens: int | None = None,
    fluency_facts: int = 20,
    answers_facts: int | None = None,
    probability_chat: bool | str = False,
    generation: Generation = WRITE_PLAINLY,
    chat: Chat = CHAT,
    seed: int = 0,
    tokens_per_batch: int = 1024,
) -> Measured:
    """Measure a model as it is now.

    facts: all facts of the comparison, in the order they are edited. families: names in `FAMILIES`. rounds: in which
    each fact was written, of the first ones (a checkpoint), and only these are measured; None: nothing was written, and
    all are. The facts that write, their random numbers and the words' TF-IDF weights are those of the whole comparison
    at every checkpoint. reference: for locality, `locality_reference` of all facts on the unedited model. text,
    text_tokens: for perplexity, held-out text and after how many tokens to cut it (None: nowhere). fluency_facts,
    answers_facts: how many of all the facts write for fluency and consistency, and for answers, evenly spaced; None:
    all. probability_chat: ask for probability in a chat too, as in `NSEHyperParams.chat`. generation, chat: the
    settings of those families; the judge is tried, and the chat template looked for, before anything is measured.

    Raises ValueError when a family is unknown or lacks what it needs, FactError when there are no facts, JudgeError.
    """
    _check(families, facts, reference, text)
    where = _frames(tokenizer, families, probability_chat, generation, chat)
    measured = facts if rounds is None else facts[: len(rounds)]
    frame = _teacher_forced(model, tokenizer, measured, families, where, rounds, reference, tokens_per_batch)
    spaced = functools.partial(_spaced, len(facts), len(measured))
    written = pd.DataFrame(columns=["fact", "prompt", "text"])
    if "chat" in families:
        scores, written = _answered(model, tokenizer, facts, spaced(chat.facts), where["chat"][0], tokens_per_batch)
        frame = frame.join(scores)
    if "generation" in families:
        scores, own = _generated(model, tokenizer, facts, spaced(generation.facts), generation, tokens_per_batch)
        frame, written = frame.join(scores), pd.concat([own, written], ignore_index=True)
    if "answers" in families:
        scores, own = _whole_answers(model, tokenizer, facts, spaced(answers_facts), tokens_per_batch)
        frame, written = frame.join(scores), pd.concat([own, written], ignore_index=True)
    if any(family in families for family in WRITING):
        writers = spaced(fluency_facts)
        own = _continuations(model, tokenizer, facts, writers, seed)
        texts = {row: list(own["text"][own["fact"] == row]) for row in writers}
        written = pd.concat([own, written], ignore_index=True)
        frame = frame.assign(**_of_texts(facts, texts, families))
    replaced = pd.Series(subjects.replaced(measured)) & (rounds is not None)
    frame.loc[replaced] = math.nan
    overall = mean_scores(frame)
    if text is not None and "perplexity" in families:
        overall["perplexity"] = perplexity(
            model, tokenizer, text, max_tokens=text_tokens, tokens_per_batch=tokens_per_batch
        )
    return Measured(frame, overall, written, replaced)


def _check(families: Collection[str], facts: Sequence[Fact], reference: Predictions | None, text: str | None) -> None:
    for family in families:
        if family not in FAMILIES:
            hint = did_you_mean(family, FAMILIES, f"there are {', '.join(FAMILIES)}.")
            raise ValueError(f"families: {family!r} is unknown; {hint}")
    if not facts:
        raise FactError("facts is empty: measuring needs at least one fact.")
    if "locality" in families and reference is None:
        raise ValueError("reference is None: locality needs it, make it with locality_reference on the unedited model.")
    if "perplexity" in families and text is None:
        raise ValueError("text is None: perplexity needs it, please give a held-out text.")


def _spaced(facts: int, measured: int, count: int | None) -> list[int]:
    """Evenly spaced among all facts, those (rows) that are measured."""
    return [row for row in evenly_spaced(facts, count) if row < measured]


def _frames(
    tokenizer: PreTrainedTokenizerBase,
    families: Collection[str],
    probability_chat: bool | str,
    generation: Generation,
    chat: Chat,
) -> dict[str, list[Frame]]:
    """Where probability and chat ask, by family. Raises ValueError or JudgeError where generation lacks something."""
    if "generation" in families:
        generation.check(tokenizer)
    where = {"probability": frames(tokenizer, probability_chat)}
    return where | ({"chat": [chat.frame(tokenizer)]} if "chat" in families else {})


def forced_pairs(fact: Fact, families: Collection[str], where: Mapping[str, Sequence[Frame]]) -> list[Pair]:
    """What the teacher-forced families need predicted of a fact. where: the frames that probability and chat ask in."""
    askers: dict[str, Callable[[Fact], list[Pair]]] = {
        **PAIRS,
        "probability": functools.partial(probability.pairs, frames=where.get("probability", [PLAIN])),
        "chat": functools.partial(in_chat.pairs, frame=where.get("chat", [PLAIN])[0]),
    }
    return [pair for family, pairs in askers.items() if family in families for pair in pairs(fact)]


def _teacher_forced(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    families: Collection[str],
    where: Mapping[str, Sequence[Frame]],
    rounds: Sequence[int] | None,
    reference: Predictions | None,
    tokens_per_batch: int,
) -> pd.DataFrame:
    scorers: dict[str, Callable[[Fact, Predictions], dict[str, float]]] = {
        "probability": functools.partial(probability.scores, frames=where["probability"]),
        "accuracy": accuracy.scores,
        "locality": functools.partial(locality.scores, reference=reference or {}),
        "probes": portability.scores,
        "chat": functools.partial(in_chat.scores, frame=where.get("chat", [PLAIN])[0]),
    }
    asked = [family for family in (*PAIRS, "chat") if family in families]
    pairs = [pair for fact in facts for pair in forced_pairs(fact, families, where)]
    predictions = predict(model, tokenizer, pairs, tokens_per_batch)
    scored = [
        subjects.scores(facts, rounds, predictions)
        if family == "subjects"
        else pd.DataFrame([scorers[family](fact, predictions) for fact in facts])
        for family in asked
    ]
    return pd.concat(scored, axis="columns") if scored else pd.DataFrame(index=range(len(facts)))


def _answered(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    writers: list[int],
    frame: Frame,
    tokens_per_batch: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of some facts (rows): the scores of what the assistant answers, and its answers with their prompts."""
    chosen = [facts[row] for row in writers]
    scores, replies = in_chat.answered(model, tokenizer, chosen, frame, tokens_per_batch)
    prompts = [f"{fact.text} (in a chat)" for fact in chosen]
    texts = [f"{prompt} {answer}" for prompt, answer in zip(prompts, replies, strict=True)]
    return scores.set_axis(writers), pd.DataFrame({"fact": list(writers), "prompt": prompts, "text": texts})


def _generated(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    writers: list[int],
    generation: Generation,
    tokens_per_batch: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of some facts (rows): the scores of what is written freely, and the texts with their prompts."""
    chosen = [facts[row] for row in writers]
    scores, texts = free_generation.free_generation(
        model, tokenizer, chosen, chat=generation.chat, judge=generation.judge, tokens_per_batch=tokens_per_batch
    )
    return scores.set_axis(writers), _after(texts, writers)


def _whole_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[Fact],
    writers: list[int],
    tokens_per_batch: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of some facts (rows): whether the target is the whole answer, and the texts with their prompts."""
    chosen = [facts[row] for row in writers]
    scores, texts = answers.whole_answers(model, tokenizer, chosen, tokens_per_batch=tokens_per_batch)
    return scores.set_axis(writers), _after(texts, writers)


def _after(texts: pd.DataFrame, writers: Sequence[int]) -> pd.DataFrame:
    """Texts of some facts (rows), which hold the answer alone, with the prompt first and the rows among all facts."""
    text = texts["prompt"].str.rstrip() + " " + texts["text"]
    return texts.assign(text=text, fact=[writers[row] for row in texts["fact"]])


def _continuations(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], writers: Sequence[int], seed: int
) -> pd.DataFrame:
    asked = [(row, prompt) for row in writers for prompt in generation_prompts(facts[row])]
    texts = continuations(model, tokenizer, [prompt for _, prompt in asked], seed=seed)
    return pd.DataFrame(asked, columns=["fact", "prompt"]).assign(text=texts)


def _of_texts(
    facts: Sequence[Fact], texts: dict[int, list[str]], families: Collection[str]
) -> dict[str, pd.Series[float]]:
    """Fluency and consistency of the texts, as far as they are asked for, by fact (row)."""
    scores: dict[str, pd.Series[float]] = {}
    if "fluency" in families:
        scores["fluency"] = pd.Series({row: fluency(own) for row, own in texts.items()}, dtype=float)
    if "consistency" in families:
        scores["consistency"] = _consistency(facts, texts)
    return scores


def _consistency(facts: Sequence[Fact], texts: dict[int, list[str]]) -> pd.Series[float]:
    """By fact, where it wrote and has reference texts."""
    documents = [document for fact in facts for document in fact.reference_texts]
    referenced = [row for row in texts if facts[row].reference_texts]
    if not referenced:
        return pd.Series(dtype=float)
    vectorizer = tfidf(documents)
    return pd.Series({row: consistency(vectorizer, texts[row], facts[row].reference_texts) for row in referenced})
