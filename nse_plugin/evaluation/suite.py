"""All metrics of a comparison, by family: one call measures a model in its current state.

The teacher-forced families (probability, accuracy, locality, probes, subjects, and the teacher-forced metrics of chat)
share one batched forward pass over the distinct rows of all their prompts and targets; fluency and consistency share
the texts the model writes; generation, answers and chat generate their own texts.

A fact that a later one has replaced has no metrics, because its target is no longer the desired answer.
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
PAIRS = {  # of plain-text prompts
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
    """The measurements of one model.

    facts: one row per fact, in the given order, and one column per metric of the requested families; NaN if a metric
    does not apply to a fact; with a judge also `generation_judged`. overall: the means of the metrics over the facts,
    `score` (see `mean_scores`) and perplexity; a metric without any value is omitted. texts: the texts that the model
    wrote, with columns fact (its row), prompt, text (including the prompt). replaced: for each fact, whether a later
    one has replaced it, so that its metrics are NaN.
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
    """Measure a model in its current state.

    facts: all facts of the comparison, in the order they are edited. families: names in `FAMILIES`. rounds: the round
    of each fact written so far (at a checkpoint); only these first facts are measured. None: nothing was written, all
    facts are measured. At every checkpoint, the selection of facts for which texts are written, their random numbers
    and the TF-IDF weights are those of the whole comparison. reference: for locality, `locality_reference` of all facts
    on the unedited model. text, text_tokens: for perplexity, the held-out text and the number of tokens to truncate it
    to (None: not truncated). fluency_facts, answers_facts: for how many of all facts, evenly spaced, the model writes
    for fluency and consistency, and for answers; None: for all. probability_chat: as `NSEHyperParams.chat`. generation,
    chat: the settings of these families; the judge and the chat template are checked before anything is measured.

    Raises ValueError if a family is unknown or lacks a required argument, FactError if there are no facts, a fact has
    no target_true for probability, or there is no such chat template, JudgeError if the judge fails.
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
        of_text = functools.partial(perplexity, max_tokens=text_tokens, tokens_per_batch=tokens_per_batch)
        overall["perplexity"] = of_text(model, tokenizer, text)
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
    """Return the rows of `count` facts evenly spaced among all facts, without those that are not measured."""
    return [row for row in evenly_spaced(facts, count) if row < measured]


def _frames(
    tokenizer: PreTrainedTokenizerBase,
    families: Collection[str],
    probability_chat: bool | str,
    generation: Generation,
    chat: Chat,
) -> dict[str, list[Frame]]:
    """Return the frames by family. Raises ValueError if a chat template is missing, JudgeError if the judge fails."""
    if "generation" in families:
        generation.check(tokenizer)
    where = {"probability": frames(tokenizer, probability_chat if "probability" in families else False)}
    return where | ({"chat": [chat.frame(tokenizer)]} if "chat" in families else {})


def forced_pairs(fact: Fact, families: Collection[str], where: Mapping[str, Sequence[Frame]]) -> list[Pair]:
    """Return the pairs of a fact for the teacher-forced families. where: the frames of probability and chat."""
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
    """Return the scores of the assistant's answers for the facts in rows `writers`, and texts with their prompts."""
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
    """Return the scores of free generation for the facts in rows `writers`, and the texts with their prompts."""
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
    """Return the scores of whole answers for the facts in rows `writers`, and the texts with their prompts."""
    chosen = [facts[row] for row in writers]
    scores, texts = answers.whole_answers(model, tokenizer, chosen, tokens_per_batch=tokens_per_batch)
    return scores.set_axis(writers), _after(texts, writers)


def _after(texts: pd.DataFrame, writers: Sequence[int]) -> pd.DataFrame:
    """Put the prompt before each answer, and replace indices into `writers` by rows among all facts."""
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
    """Return fluency and consistency of the texts, if requested, by fact (row)."""
    scores: dict[str, pd.Series[float]] = {}
    if "fluency" in families:
        scores["fluency"] = pd.Series({row: fluency(own) for row, own in texts.items()}, dtype=float)
    if "consistency" in families:
        scores["consistency"] = _consistency(facts, texts)
    return scores


def _consistency(facts: Sequence[Fact], texts: dict[int, list[str]]) -> pd.Series[float]:
    """Return the consistency of each fact (row) that has texts and reference texts."""
    documents = [document for fact in facts for document in fact.reference_texts]
    referenced = [row for row in texts if facts[row].reference_texts]
    if not referenced:
        return pd.Series(dtype=float)
    vectorizer = tfidf(documents)
    return pd.Series({row: consistency(vectorizer, texts[row], facts[row].reference_texts) for row in referenced})
