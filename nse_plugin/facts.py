"""A fact: what the model should say from now on, and how to ask for it.

`Fact.from_record` reads the record forms of the field (EasyEdit, ROME/CounterFact, MEND/zsRE), so everything
behind it deals with one type only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SLOT = "{}"


class FactError(ValueError):
    """A fact that cannot be edited as it is written; the message names the field, its value and the remedy."""


@dataclass(frozen=True)
class Fact:
    """One association `(subject, relation) -> target_new`.

    prompt: the relation template with exactly one `{}` where the subject goes, e.g. "The capital of {} is".
    subject: the entity; its last token is where the fact is looked up.
    target_new: what the prompt should be continued with (a leading space is added when needed).
    target_true: what it is continued with today; only the measurements need it.
    rephrase_prompts: other wordings, subject written out (Generalization).
    locality_prompts: `(prompt, its true answer)` pairs that must not change (Specificity).
    case_id: the record's own number, carried through to the reports.

    Raises FactError when prompt, subject or target_new is empty, the prompt has not exactly one `{}`, or the prompts
    that measure are not of the form above.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    rephrase_prompts: tuple[str, ...] = ()
    locality_prompts: tuple[tuple[str, str], ...] = ()
    case_id: int | str | None = None

    def __post_init__(self) -> None:
        for field in ("prompt", "subject", "target_new"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise FactError(f"{self._where()}{field} is {value!r}: give it as a non-empty string.")
        if self.prompt.count(SLOT) != 1:
            raise FactError(
                f"{self._where()}prompt {self.prompt!r} has {self.prompt.count(SLOT)} times '{{}}': write '{{}}' "
                f"exactly once, where the subject {self.subject!r} goes."
            )
        if isinstance(self.rephrase_prompts, str):
            raise FactError(f"{self._where()}rephrase_prompts is {self.rephrase_prompts!r}: give a list of strings.")
        object.__setattr__(self, "rephrase_prompts", tuple(self.rephrase_prompts))
        try:
            pairs = tuple((question, answer) for question, answer in self.locality_prompts)
        except (TypeError, ValueError):
            raise FactError(
                f"{self._where()}locality_prompts is {self.locality_prompts!r:.80}: give (prompt, true answer) pairs."
            ) from None
        object.__setattr__(self, "locality_prompts", pairs)

    def _where(self) -> str:
        return "" if self.case_id is None else f"fact {self.case_id}: "

    @property
    def text(self) -> str:
        """The prompt with the subject written out."""
        return self.prompt.replace(SLOT, self.subject)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], case_id: int | str | None = None) -> Fact:
        """Read one record of EasyEdit (flat or request), ROME/CounterFact, MEND/zsRE, or of Fact's own fields.

        record: a mapping; `case_id` is used when the record carries none.
        Raises FactError naming the missing or malformed field.
        """
        if not isinstance(record, Mapping):
            raise FactError(f"A record must be a mapping, not {type(record).__name__}: {record!r:.80}.")
        case_id = record.get("case_id", case_id)
        where = "" if case_id is None else f"fact {case_id}: "
        try:
            if "requested_rewrite" in record:
                fields = _from_rome(record)
            elif "src" in record and "alt" in record:
                fields = _from_mend(record)
            else:
                fields = _from_easyedit(record)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise FactError(
                f"{where}the record is malformed ({type(error).__name__}: {error}): bring it into the form of "
                f"EasyEdit, ROME or MEND: {record!r:.200}."
            ) from error
        for field in ("prompt", "subject", "target_new"):
            if fields.get(field) is None:
                raise FactError(f"{where}{field} is missing: a record needs prompt, subject and target_new.")
        fields["prompt"] = _with_slot(fields["prompt"], fields["subject"], where)
        return cls(case_id=case_id, **fields)


def _with_slot(prompt: Any, subject: Any, where: str) -> Any:
    """Turn a prompt with the subject written out into a template; leave templates and non-strings alone."""
    if not (isinstance(prompt, str) and isinstance(subject, str) and prompt.strip() and subject.strip()):
        return prompt
    if SLOT in prompt:
        return prompt
    found = prompt.count(subject)
    if found == 1:
        return prompt.replace(subject, SLOT)
    problem = "does not contain" if found == 0 else f"contains {found} times"
    raise FactError(
        f"{where}prompt {prompt!r} {problem} the subject {subject!r}: write '{{}}' in the prompt where it goes."
    )


def _from_easyedit(record: Mapping[str, Any]) -> dict[str, Any]:
    fields = {name: record.get(name) for name in ("prompt", "subject", "target_new")}
    fields["target_true"] = record.get("target_true", record.get("ground_truth"))
    rephrase = record.get("rephrase_prompts", record.get("rephrase_prompt")) or ()
    fields["rephrase_prompts"] = (rephrase,) if isinstance(rephrase, str) else tuple(rephrase)
    fields["locality_prompts"] = tuple(_locality_pairs(record, fields["target_true"]))
    return fields


def _locality_pairs(record: Mapping[str, Any], target_true: str | None) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for item in record.get("locality_prompts") or ():
        if isinstance(item, Mapping):
            pairs.append((item["prompt"], item["answer"]))
        elif isinstance(item, str):
            pairs.append((item, _shared_answer(target_true)))
        else:
            pairs.append((item[0], item[1]))
    if record.get("locality_prompt"):
        pairs += _zipped(record["locality_prompt"], record.get("locality_ground_truth"))
    for group in (record.get("locality") or {}).values():  # EasyEdit's request form
        pairs += _zipped(group["prompt"], group["ground_truth"])
    return pairs


def _shared_answer(target_true: str | None) -> str:
    """CounterFact's neighbours share the fact's true object."""
    if target_true is None:
        raise LookupError("locality prompts without answers need target_true")
    return target_true


def _zipped(prompts: str | Sequence[str], answers: Any) -> list[tuple[str, str]]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    answers = [answers] if isinstance(answers, str) else list(answers)
    return [(q, a if isinstance(a, str) else a[0]) for q, a in zip(prompts, answers, strict=True)]


def _from_rome(record: Mapping[str, Any]) -> dict[str, Any]:
    rewrite = record["requested_rewrite"]
    target_true = _string(rewrite.get("target_true"))
    return {
        "prompt": rewrite.get("prompt"),
        "subject": rewrite.get("subject"),
        "target_new": _string(rewrite.get("target_new")),
        "target_true": target_true,
        "rephrase_prompts": tuple(record.get("paraphrase_prompts") or ()),
        "locality_prompts": tuple((q, _shared_answer(target_true)) for q in record.get("neighborhood_prompts") or ()),
    }


def _from_mend(record: Mapping[str, Any]) -> dict[str, Any]:
    answers = record.get("answers") or [None]
    locality = _zipped(record["loc"], record["loc_ans"]) if record.get("loc") else ()
    return {
        "prompt": record["src"],
        "subject": record.get("subject"),
        "target_new": record["alt"],
        "target_true": answers[0],
        "rephrase_prompts": (record["rephrase"],) if record.get("rephrase") else (),
        "locality_prompts": tuple(locality),
    }


def _string(value: Any) -> Any:
    return value.get("str") if isinstance(value, Mapping) else value
