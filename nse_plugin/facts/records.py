"""Read records of facts in common formats (EasyEdit, ROME/CounterFact, MEND/zsRE, KnowEdit) as fields of a `Fact`.

All other code then deals with this one type only.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from typing import Any

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.texts import SLOT, is_text
from nse_plugin.facts.words import whole_words

log = logging.getLogger(__name__)

REQUIRED_FIELDS = ("prompt", "target_new")
EDIT_FIELDS = ("prompt", "subject", "target_new")
_PORTABILITY_FIELDS = ("portability", "generalization", "portability_prompts", "reversal_prompts")
# The fields that are read from a record, by its format; other fields are ignored.
RECORD_FIELDS = (
    *EDIT_FIELDS, "case_id", "target_true", "ground_truth", "rephrase_prompts", "rephrase_prompt", "rephrase",
    "locality_prompts", "locality_prompt", "locality_ground_truth", "locality", "generation_prompts",
    "reference_texts", "separator", "aliases", *_PORTABILITY_FIELDS,
)  # fmt: skip
_ROME_FIELDS = (
    "case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts", "generation_prompts", "separator",
    "aliases", *_PORTABILITY_FIELDS,
)  # fmt: skip
_MEND_FIELDS = (
    "case_id", "subject", "src", "alt", "answers", "rephrase", "loc", "loc_ans", "separator", "aliases",
    *_PORTABILITY_FIELDS,
)  # fmt: skip
_WIKIBIO_FIELDS = ("concept", "text", "labels", *RECORD_FIELDS)
_ALL_FIELDS = {*_ROME_FIELDS, *_MEND_FIELDS, *_WIKIBIO_FIELDS}
_REVERSED = "revers"  # part of the names of groups: "reversed", "Reversal", "Reverse_Relation"


def gives_subject(record: Mapping[str, Any]) -> bool:
    """Whether a record has a subject."""
    if "requested_rewrite" in record:
        record = record["requested_rewrite"]
    return record.get("concept" if form_of(record)[0] is _from_wikibio else "subject") is not None


def misspelt_field(
    names: Iterable[object], known: Collection[str] = RECORD_FIELDS, cutoff: float = 0.8
) -> tuple[str, str] | None:
    """Return the first name that is nearly one of `known`, and that known name; None if there is no such name.

    A name is not misspelt if it is a field of any record format, or if a known name that it is close to is also given.
    cutoff: the least similarity, as in `difflib.get_close_matches`, 0 to 1.
    """
    given = {name for name in names if isinstance(name, str)}
    for name in sorted(given - _ALL_FIELDS):
        near = get_close_matches(re.sub(r"[\s-]+", "_", name.strip().lower()), known, cutoff=cutoff)
        if near and not given & {*near}:
            return name, near[0]
    return None


def with_slot(prompt: object, subject: object, where: str) -> Any:
    """Replace the subject written out in a prompt by `{}`; return templates and non-strings unchanged.

    where: the beginning of messages. Raises FactError if the subject is not in the prompt exactly once, as a whole
    word.
    """
    if not (isinstance(prompt, str) and isinstance(subject, str) and prompt.strip() and subject.strip()):
        return prompt
    words = whole_words(subject, prompt)
    if SLOT in prompt:
        if words:
            log.warning(
                "%sprompt %r has '{}' and the subject %r as well: it is edited at '{}'.", where, prompt, subject
            )
        return prompt
    if len(words) == 1:
        [(start, end)] = words
        return prompt[:start] + SLOT + prompt[end:]
    if subject in prompt and not words:
        raise FactError(
            f"{where}prompt {prompt!r} has the subject {subject!r} only within a longer word: give the whole word as "
            "the subject, or write '{}' in the prompt where the subject goes."
        )
    problem = f"contains {len(words)} times" if words else "does not contain"
    raise FactError(
        f"{where}prompt {prompt!r} {problem} the subject {subject!r}: write '{{}}' in the prompt where it goes."
    )


def form_of(record: Mapping[str, object]) -> tuple[Callable[[Mapping[str, Any]], dict[str, Any]], tuple[str, ...]]:
    """Return the function that reads a record, and the names of the fields that it reads."""
    if "requested_rewrite" in record:
        return _from_rome, _ROME_FIELDS
    if "src" in record and "alt" in record:
        return _from_mend, _MEND_FIELDS
    if "concept" in record and "labels" in record:
        return _from_wikibio, _WIKIBIO_FIELDS
    return _from_easyedit, RECORD_FIELDS


def _from_easyedit(record: Mapping[str, object]) -> dict[str, Any]:
    """Read EasyEdit's flat and request formats, KnowEdit's questions, and Fact's own fields."""
    target_true = _first(record.get("target_true", record.get("ground_truth")))
    names = ("rephrase_prompts", "rephrase_prompt", "rephrase")
    rephrase: Any = next((record[name] for name in names if record.get(name)), ())
    return {
        "prompt": record.get("prompt"),
        "subject": record.get("subject"),
        "target_new": record.get("target_new"),
        "target_true": target_true,
        "rephrase_prompts": (rephrase,) if isinstance(rephrase, str) else rephrase,
        "locality_prompts": _locality_pairs(record, target_true),
        "generation_prompts": record.get("generation_prompts") or (),
        "reference_texts": record.get("reference_texts") or (),
        **_portability_and_reversal(record),
    }


def _from_wikibio(record: Mapping[str, object]) -> dict[str, Any]:
    """Read KnowEdit's WikiBio: a passage to be continued with a true sentence."""
    return _from_easyedit(
        {**record, "subject": record["concept"], "prompt": record.get("text"), "target_new": record["labels"]}
    )


def _from_rome(record: Mapping[str, Any]) -> dict[str, Any]:
    rewrite = record["requested_rewrite"]
    target_true = _string(rewrite.get("target_true"))
    fields = {
        "prompt": rewrite.get("prompt"),
        "subject": rewrite.get("subject"),
        "target_new": _string(rewrite.get("target_new")),
        "target_true": target_true,
        "rephrase_prompts": record.get("paraphrase_prompts") or (),
        "locality_prompts": [(q, _shared_answer(target_true)) for q in _listed(record, "neighborhood_prompts")],
        "generation_prompts": record.get("generation_prompts") or (),
    }
    groups = _portability_and_reversal(record)
    sentence = _reversal_templates().get(rewrite.get("relation_id"))
    is_stated = is_text(fields["target_new"]) and fields["subject"] is not None
    if sentence and is_stated and not groups["reversal_prompts"]:
        groups["reversal_prompts"] = [(sentence.replace(SLOT, fields["target_new"].strip()), fields["subject"])]
    return {**fields, **groups}


@functools.cache
def _reversal_templates() -> dict[str, str]:
    """Return, by CounterFact's relation (Wikidata's number), a sentence that begins with the target and ends before the
    subject.

    Reversal is asked as in Ma et al. 2023, arXiv 2310.10322. Only relations with a natural inverse have a sentence; the
    fact's subject is a true answer to it, but usually not the only one.
    """
    text = (resources.files("nse_plugin.data") / "reversal_templates.json").read_text(encoding="utf-8")
    templates: dict[str, str] = json.loads(text)
    return templates


def _from_mend(record: Mapping[str, Any]) -> dict[str, Any]:
    """Read MEND's format. The prefix "nq question: " of its locality prompts is kept, as in EasyEdit and ROME."""
    return {
        "prompt": record["src"],
        "subject": record.get("subject"),
        "target_new": record["alt"],
        "target_true": _first(record.get("answers")),
        "rephrase_prompts": (record["rephrase"],) if record.get("rephrase") else (),
        "locality_prompts": _zipped(record["loc"], record["loc_ans"]) if record.get("loc") else (),
        **_portability_and_reversal(record),
    }


def _locality_pairs(record: Mapping[str, Any], target_true: str | None) -> list[tuple[Any, Any]]:
    pairs: list[tuple[Any, Any]] = []
    for item in _listed(record, "locality_prompts"):
        pairs.append((item, _shared_answer(target_true)) if isinstance(item, str) else _pair(item))
    if record.get("locality_prompt"):
        pairs += _zipped(record["locality_prompt"], record.get("locality_ground_truth"))
    for group in (record.get("locality") or {}).values():
        pairs += _group(group)
    return pairs


def _portability_and_reversal(record: Mapping[str, Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Return portability and reversal prompts, from Fact's own fields or from the named groups of EasyEdit.

    Questions about the reversed relation are in a group of `portability` or `generalization` with a name of its own.
    """
    forward = [_pair(item) for item in _listed(record, "portability_prompts")]
    backward = [_pair(item) for item in _listed(record, "reversal_prompts")]
    portability = record.get("portability") or {}
    if not isinstance(portability, Mapping):  # CKnowEdit
        forward += [_pair(item) for item in portability]
    elif "New Question" in portability:  # EasyEdit's files written by GPT-4: one question per record
        forward.append((portability["New Question"], portability["New Answer"]))
    else:
        for name, group in portability.items():
            (backward if _REVERSED in name.lower() else forward).extend(_group(group))
    generalization = record.get("generalization")  # HalluEditBench
    if isinstance(generalization, Mapping):
        for name in generalization:
            backward += _group(generalization[name]) if _REVERSED in name.lower() else []
    return {"portability_prompts": forward, "reversal_prompts": backward}


def _group(group: Any) -> list[tuple[Any, Any]]:
    """Return the questions in one named group of a record, with their answers."""
    if isinstance(group, Mapping):  # EasyEdit's requests; None if the record does not have this question
        return [] if group["prompt"] is None else _zipped(group["prompt"], group["ground_truth"])
    # KnowEdit; questions with an empty answer are left out, since there is nothing to compare with
    asked = [(_first(item["prompt"]), _first(item["ground_truth"])) for item in group or ()]
    return [(question, answer) for question, answer in asked if answer is not None]


def _pair(item: Any) -> tuple[Any, Any]:
    return (item["prompt"], item["answer"]) if isinstance(item, Mapping) else (item[0], item[1])


def _listed(record: Mapping[str, object], name: str) -> Sequence[Any]:
    value = record.get(name) or ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {value!r:.80}, not a list")
    return value


def _shared_answer(target_true: str | None) -> str:
    """Return the fact's true object, which is also the answer of CounterFact's neighbours. Raises LookupError if it is
    None."""
    if target_true is None:
        raise LookupError("locality prompts without answers need target_true")
    return target_true


def _zipped(prompts: str | Sequence[str], answers: Any) -> list[tuple[Any, Any]]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    answers = [answers] if isinstance(answers, str) else list(answers)
    return [(question, _first(answer)) for question, answer in zip(prompts, answers, strict=True)]


def _first(answer: object) -> Any:
    """Return an answer, or the first of a list of alternatives, however deeply nested; None if it is empty."""
    while isinstance(answer, list | tuple):
        answer = answer[0] if answer else None
    return None if isinstance(answer, str) and not answer.strip() else answer


def _string(value: object) -> Any:
    return value.get("str") if isinstance(value, Mapping) else value
