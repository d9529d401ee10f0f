"""Multiple-choice questions: which of four answers a model holds most likely, and how often it is the right one.

The questions are put as MMLU's are (Hendrycks et al. 2021, arXiv 2009.03300), without examples, in the form of
lm-evaluation-harness' `mmlu` tasks: a sentence that names the subject, the question, the four choices after their
letters, and "Answer:". The letter that the model holds most likely to follow is its answer.
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
ALL = "all"  # subjects together
FIELDS = ("question", "subject", "choices", "answer")


class QuestionError(ValueError):
    """Questions that cannot be put; the message names the file, the entry in it, and the remedy."""


@dataclass(frozen=True)
class Question:
    """subject: as MMLU writes it, e.g. "college_physics". answer: the place of the right choice, 0 to 3."""

    question: str
    subject: str
    choices: tuple[str, str, str, str]
    answer: int

    @property
    def prompt(self) -> str:
        """What the model reads; the letter follows after a space."""
        about = self.subject.replace("_", " ")
        lines = [self.question.strip(), *(f"{letter}. {c}" for letter, c in zip(LETTERS, self.choices, strict=True))]
        return (
            f"The following are multiple choice questions (with answers) about {about}.\n\n"
            + "\n".join(lines)
            + "\nAnswer:"
        )


def read_questions(path: str | Path) -> list[Question]:
    """Read a JSON list of entries with `question`, `subject`, `choices` (four texts) and `answer` (0 to 3).

    Raises QuestionError when the file cannot be read, holds no questions, or an entry is not such a question.
    """
    path = Path(path).expanduser()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QuestionError(f"{path} cannot be read ({error.strerror}): give a JSON file of questions.") from error
    except (ValueError, RecursionError) as error:  # of UTF-8 as well, or of lists within lists
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
    """Have the model answer. A row per question, in their order: subject, answer, chosen (0 to 3), correct (bool), and
    log_probability_A to _D, the natural logarithm of the probability of " A" to " D" after the prompt.

    Of equally likely letters the first is chosen, and none (-1) where they have no probability. A question longer than
    the model's positions loses its beginning, as in lm-evaluation-harness. The tokenizer adds before a text what it
    adds to any (a BOS, or nothing); its padding plays no part. tokens_per_batch bounds rows x longest row of one
    forward pass; letters of one token share theirs.
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
    """The share of right answers in a frame of answers: subject ("all", then each), n, accuracy, and Wilson's 95%
    interval low to high."""
    return _shares(frame["subject"], frame["correct"], "accuracy")


def kept(frame: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """The share of questions answered as in `reference`, the unedited model's: subject, n, kept, low, high.

    Far more sensitive than accuracy where a model guesses: an edit may turn every guess and leave accuracy at 0.25.
    Raises QuestionError when the two frames are not of the same questions.
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
