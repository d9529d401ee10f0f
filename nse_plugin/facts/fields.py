"""Descriptions of the fields of a fact, as in the documentation."""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """A field of `Fact`. in_json: the type of its value in JSON. in_csv: the content of a CSV cell."""

    name: str
    what: str
    needed_for: str
    in_json: str
    in_csv: str


_TEXTS, _TEXT_CELL = "list of texts", "one text, or a JSON list"
_PAIRS, _PAIR_CELL = "list of [prompt, answer]", "the same, as JSON"

FIELDS = (
    Field("prompt", "the words before the answer, {} where the subject goes", "every edit", "text", "text"),
    Field("subject", "what the fact is about", "every edit; found where it is left out", "text", "text"),
    Field("target_new", "what the prompt should be continued with", "every edit", "text", "text"),
    Field("target_true", "what it is continued with today", "Efficacy, Generalization, Specificity", "text", "text"),
    Field(
        "rephrase_prompts", "the same asked in other words, subject written out",
        "Generalization", _TEXTS, _TEXT_CELL,
    ),
    Field(
        "locality_prompts", "what must not change, with the true answer",
        "Specificity, Locality", _PAIRS, _PAIR_CELL,
    ),
    Field(
        "generation_prompts", "beginnings of texts about the subject",
        "Fluency (default: the prompt)", _TEXTS, _TEXT_CELL,
    ),
    Field(
        "reference_texts", "texts about other things of which the new answer is true",
        "Consistency", _TEXTS, _TEXT_CELL,
    ),
    Field("portability_prompts", "what follows from the fact, with the answer", "Portability", _PAIRS, _PAIR_CELL),
    Field("reversal_prompts", "the fact asked the other way round", "Reversal", _PAIRS, _PAIR_CELL),
    Field(
        "aliases", "other names of the subject, for which the fact is written too",
        "names that are to follow", _TEXTS, _TEXT_CELL,
    ),
    Field(
        "separator", 'what goes between prompt and target, "" for nothing',
        "prompts that a space would not follow", "text", "text",
    ),
    Field(
        "case_id", "its name in the results, different for each",
        "(default: its place in the file)", "number or text", "number or text",
    ),
)  # fmt: skip
