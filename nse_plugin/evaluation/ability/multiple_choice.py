"""Multiple-choice questions: which of four answers is the most likely for a model, and how often it is correct.

The prompts are those of MMLU (Hendrycks et al. 2021, arXiv 2009.03300), zero-shot, in the form of
lm-evaluation-harness' `mmlu` tasks: a sentence that names the subject, the question, the four choices after their
letters, and "Answer:". The model's answer is the letter with the highest probability as the continuation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nse_plugin.evaluation.intervals import wilson
from nse_plugin.evaluation.teacher_forcing import predict_tokens
from nse_plugin.facts.records import misspelt_field
from nse_plugin.facts.texts import is_unicode
from nse_plugin.models.positions import max_positions
from nse_plugin.models.prompts import split_target

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

LETTERS = ("A", "B", "C", "D")
LOG_PROBABILITIES = [f"log_probability_{letter}" for letter in LETTERS]
ALL = "all"  # all subjects together
FIELDS = ("question", "subject", "choices", "answer")


class QuestionError(ValueError):
    """Questions that cannot be used; the message names the file, the entry in it, and the remedy."""


@dataclass(frozen=True)
class Question:
    """One multiple-choice question. subject: as in MMLU, e.g. "college_physics". answer: the index of the correct
    choice, 0 to 3."""

    question: str
    subject: str
    choices: tuple[str, str, str, str]
    answer: int

    @property
    def prompt(self) -> str:
        """The model's input; the letter follows after a space."""
        about = self.subject.replace("_", " ")
        lines = [self.question.strip(), *(f"{letter}. {c}" for letter, c in zip(LETTERS, self.choices, strict=True))]
        return (
            f"The following are multiple choice questions (with answers) about {about}.\n\n"
            + "\n".join(lines)
            + "\nAnswer:"
        )


def read_questions(path: str | Path) -> list[Question]:
    """Read a JSON list of entries with `question`, `subject`, `choices` (four texts) and `answer` (0 to 3).

    Raises QuestionError if the file cannot be read or contains no questions, or if an entry is not a valid question.
    """
    path = Path(path).expanduser()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuestionError(f"{path} cannot be read ({error.strerror}): give a JSON file of questions.") from error
    except (ValueError, RecursionError) as error:  # also for invalid UTF-8, or lists nested too deeply
        raise QuestionError(f"{path} is not JSON ({error}): give a JSON list of questions.") from error
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else f"a {type(entries).__name__}"
        raise QuestionError(f"{path} holds {found}: give a JSON list of one question or more.")
    return [_question(entry, f"{path}, entry {number} (counted from 0)") for number, entry in enumerate(entries)]


def _question(entry: object, where: str) -> Question:
    if not isinstance(entry, Mapping):
        raise QuestionError(f"{where}: {entry!r:.60} is no question: give question, subject, choices and answer.")
    for field in FIELDS:
        if field not in entry:
            near = misspelt_field(entry.keys() - {*FIELDS}, (field,), cutoff=0.6)
            meant = f", and there is no field {near[0]!r}: rename it" if near else ""
            raise QuestionError(f"{where}: {field} is missing{meant}: give question, subject, choices and answer.")
    for field in ("question", "subject"):
        if not isinstance(entry[field], str) or not entry[field].strip():
            raise QuestionError(f"{where}: {field} = {entry[field]!r:.60}: give a text.")
    choices, answer = entry["choices"], entry["answer"]
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise QuestionError(f"{where}: choices = {choices!r:.60}: give a list of four texts.")
    if len(choices) != len(LETTERS):
        raise QuestionError(f"{where}: choices = {choices!r:.60} are {len(choices)}: give four.")
    for text in (entry["question"], entry["subject"], *choices):
        if not is_unicode(text):
            raise QuestionError(f"{where}: {text!r:.60} has half of a character (a lone surrogate): write it whole.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(LETTERS):
        raise QuestionError(f"{where}: answer = {answer!r:.60}: give the place of the right choice, 0, 1, 2 or 3.")
    first, second, third, fourth = choices
    return Question(entry["question"], entry["subject"], (first, second, third, fourth), answer)


def answer_questions(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], tokens_per_batch: int = 1024
) -> pd.DataFrame:
    """Let the model answer questions. Returns one row per question, in the given order: subject, answer, chosen (0 to
    3), correct (bool), and log_probability_A to _D, the natural logarithm of the probability of " A" to " D" after the
    prompt.

    If letters are equally likely, the first is chosen; if a log-probability is NaN, none is (-1). A question longer
    than the model's positions is truncated at its beginning, as in lm-evaluation-harness. The tokenizer adds its usual
    special tokens before the text (a BOS, or nothing); its padding is not used. tokens_per_batch bounds rows x longest
    row of one forward pass; letters that are one token each share a row.
    """
    positions = max_positions(model.config)
    encoded = []
    for question in questions:
        for letter in LETTERS:
            before, target = split_target(tokenizer, question.prompt, f" {letter}")
            room = len(before) if positions is None else positions - (len(target) - 1)  # the last token is not read
            encoded.append((before[-room:], target))
    predictions = predict_tokens(model, encoded, tokens_per_batch)
    sums = [prediction.log_probability * len(prediction.target) for prediction in predictions]
    likely = np.array(sums).reshape(len(questions), len(LETTERS))
    frame = pd.DataFrame({name: [getattr(q, name) for q in questions] for name in ("subject", "answer")})
    frame["chosen"] = np.where(np.isnan(likely).any(axis=1), -1, likely.argmax(axis=1))
    frame["correct"] = frame["chosen"] == frame["answer"]
    return frame.assign(**dict(zip(LOG_PROBABILITIES, likely.T, strict=True)))


def accuracy(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of correct answers in a frame from `answer_questions`: subject ("all", then each subject), n,
    accuracy, and Wilson's 95% interval, low and high."""
    return _shares(frame["subject"], frame["correct"], "accuracy")


def kept(frame: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return the share of questions answered as in `reference`, the unedited model's answers: subject, n, kept, low,
    high.

    Far more sensitive than accuracy if a model guesses: an edit may change every guess and leave accuracy at 0.25.
    Raises QuestionError if the two frames are not about the same questions.
    """
    columns = ["subject", "answer"]
    if not frame[columns].reset_index(drop=True).equals(reference[columns].reset_index(drop=True)):
        raise QuestionError(
            f"{len(frame)} answers cannot be compared with {len(reference)} of other questions: put the same to both."
        )
    same = frame["chosen"].to_numpy() == reference["chosen"].to_numpy()
    return _shares(frame["subject"], pd.Series(same, index=frame.index), "kept")


def _shares(subjects: pd.Series[str], flags: pd.Series[bool], name: str) -> pd.DataFrame:
    groups = [(ALL, flags), *((str(subject), own) for subject, own in flags.groupby(subjects))]
    rows = [(subject, len(own), float(own.mean()), *wilson(float(own.mean()), len(own))) for subject, own in groups]
    return pd.DataFrame(rows, columns=["subject", "n", name, "low", "high"])
