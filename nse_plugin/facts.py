"""A fact: what the model should say from now on, and how to ask for it.

`Fact.from_record` reads the record forms of the field (EasyEdit, ROME/CounterFact, MEND/zsRE, KnowEdit), so
everything behind it deals with one type only.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from numbers import Integral
from typing import Any

from nse_plugin.subject_of import UnknownSubjectError, find_subject
from nse_plugin.support.suggestions import number_of
from nse_plugin.words import is_letter, is_unspaced, whole_words

log = logging.getLogger(__name__)

SLOT = "{}"
REQUIRED_FIELDS = ("prompt", "target_new")
EDIT_FIELDS = ("prompt", "subject", "target_new")
_PROBES = ("portability", "generalization", "portability_prompts", "reversal_prompts")
# What is read of a record, by its form; its other fields are ignored.
RECORD_FIELDS = (
    *EDIT_FIELDS, "case_id", "target_true", "ground_truth", "rephrase_prompts", "rephrase_prompt", "rephrase",
    "locality_prompts", "locality_prompt", "locality_ground_truth", "locality", "generation_prompts",
    "reference_texts", "separator", "aliases", *_PROBES,
)  # fmt: skip
_ROME_FIELDS = (
    "case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts", "generation_prompts", "separator",
    "aliases", *_PROBES,
)  # fmt: skip
_MEND_FIELDS = (
    "case_id", "subject", "src", "alt", "answers", "rephrase", "loc", "loc_ans", "separator", "aliases", *_PROBES
)  # fmt: skip
_WIKIBIO_FIELDS = ("concept", "text", "labels", *RECORD_FIELDS)
_ALL_FIELDS = {*_ROME_FIELDS, *_MEND_FIELDS, *_WIKIBIO_FIELDS}
_WANTED = "give a Fact, a dict with prompt, subject and target_new, or a list of these"
_PANDAS = {"DataFrame": "its .to_dict('records')", "Series": "its .to_dict()"}
_REVERSED = "revers"  # in the names of groups: "reversed", "Reversal", "Reverse_Relation"


class FactError(ValueError):
    """A fact that cannot be edited as it is written; the message names the field, its value and the remedy."""


@dataclass(frozen=True)
class Fact:
    """One association `(subject, relation) -> target_new`.

    prompt: the relation template with exactly one `{}` where the subject goes, e.g. "The capital of {} is".
    subject: the entity; its last token is where the fact is looked up. None, beside a prompt that has it written out:
    it is found there, as `subject_of` says, and the fact has it from then on.
    target_new: what the prompt should be continued with, joined to it as `continuation` says.
    target_true: what it is continued with today; only the measurements need it.
    rephrase_prompts: other wordings, subject written out (Generalization).
    locality_prompts: `(prompt, its true answer)` pairs that must not change (Specificity).
    case_id: the record's own number, carried through to the reports.
    generation_prompts: texts about the subject that the model is asked to continue (Fluency, Consistency).
    reference_texts: texts about things of which target_new is true; Consistency compares the continuations with them.
    portability_prompts: `(prompt, answer)` pairs that follow from the fact, such as a question one hop further.
    reversal_prompts: `(prompt, answer)` pairs that ask for the subject, the fact's own told from its target's side.
    separator: what goes between any of its prompts and what follows it, where neither has white space there; None: a
    space, where the two would run into one word, and otherwise nothing.
    aliases: other names of the subject, for which the fact is written too.

    Raises FactError when prompt, subject or target_new is empty, the prompt has not exactly one `{}`, another field is
    not of the form above, or the subject is None and cannot be told.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    rephrase_prompts: tuple[str, ...] = ()
    locality_prompts: tuple[tuple[str, str], ...] = ()
    case_id: int | str | None = None
    generation_prompts: tuple[str, ...] = ()
    reference_texts: tuple[str, ...] = ()
    portability_prompts: tuple[tuple[str, str], ...] = ()
    reversal_prompts: tuple[tuple[str, str], ...] = ()
    separator: str | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.case_id is None or isinstance(self.case_id, Integral | str)):
            raise FactError(f"case_id is {self.case_id!r}: give an integer or a string.")
        for field in REQUIRED_FIELDS if self.subject is None else EDIT_FIELDS:
            value = getattr(self, field)
            if not _is_text(value):
                raise FactError(f"{self._where()}{field} is {value!r}: give it as a non-empty string of characters.")
        if not (self.target_true is None or _is_text(self.target_true)):
            raise FactError(f"{self._where()}target_true is {self.target_true!r}: give a non-empty string, or None.")
        if not (self.separator is None or (isinstance(self.separator, str) and is_unicode(self.separator))):
            raise FactError(f"{self._where()}separator is {self.separator!r}: give a string, '' for none, or None.")
        object.__setattr__(self, "rephrase_prompts", self._texts("rephrase_prompts"))
        if self.subject is None:
            self._find_subject()
        if (count := self.prompt.count(SLOT)) != 1:
            has = f"has '{{}}' {count} times" if count else "has no '{}'"
            raise FactError(
                f"{self._where()}prompt {self.prompt!r} {has}: write '{{}}' exactly once, where the subject "
                f"{self.subject!r} goes."
            )
        for field in ("generation_prompts", "reference_texts", "aliases"):
            object.__setattr__(self, field, self._texts(field))
        for field in ("locality_prompts", "portability_prompts", "reversal_prompts"):
            object.__setattr__(self, field, self._pairs(field))

    def _find_subject(self) -> None:
        if SLOT in self.prompt:
            raise FactError(
                f"{self._where()}subject is missing, and prompt {self.prompt!r} has '{{}}' in its place: give the "
                "subject, or write it out in the prompt to have it found."
            )
        try:
            start, end = find_subject(self.prompt, self.rephrase_prompts)
        except UnknownSubjectError as error:
            raise FactError(
                f"{self._where()}subject is missing, and prompt {self.prompt!r} does not tell it, since {error}: give "
                "the subject."
            ) from error
        log.info("%sthe subject of %r is found to be %r.", self._where(), self.prompt, self.prompt[start:end])
        object.__setattr__(self, "subject", self.prompt[start:end])
        object.__setattr__(self, "prompt", self.prompt[:start] + SLOT + self.prompt[end:])

    def _texts(self, field: str) -> tuple[str, ...]:
        value = getattr(self, field)
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise FactError(f"{self._where()}{field} is {value!r:.80}: give a list of strings.")
        texts = tuple(value)
        for text in texts:
            if not _is_text(text):
                raise FactError(f"{self._where()}{field} holds {text!r:.80}: give non-empty strings only.")
        return texts

    def _pairs(self, field: str) -> tuple[tuple[str, str], ...]:
        value = getattr(self, field)
        if isinstance(value, Iterable) and not isinstance(value, str):
            pairs = tuple(value)
            if all(_is_pair(pair) for pair in pairs):
                return tuple((question, answer) for question, answer in pairs)
        raise FactError(
            f"{self._where()}{field} is {value!r:.80}: give (prompt, true answer) pairs of non-empty strings."
        )

    def _where(self) -> str:
        return "" if self.case_id is None else f"fact {self.case_id}: "

    @property
    def text(self) -> str:
        """The prompt with the subject written out."""
        return self.prompt.replace(SLOT, self.subject)

    @property
    def names(self) -> tuple[str, ...]:
        """The subject and its aliases, each once."""
        names: dict[str, str] = {}
        for name in (self.subject, *self.aliases):
            names.setdefault(name.strip(), name)
        return tuple(names.values())

    def named(self, name: str) -> Fact:
        """The same fact of the subject under another name."""
        return self if name == self.subject else dataclasses.replace(self, subject=name)

    def asked(self, prompt: str, answer: str) -> Pair:
        """One of its prompts and what follows it, as `evaluation.teacher_forcing.predict` takes them."""
        return (prompt, answer) if self.separator is None else (prompt, answer, self.separator)

    @property
    def signature(self) -> tuple[str, str, str]:
        """Prompt with what parts it from the target, subject, and target, without the spaces that make no difference:
        facts of one signature are the same edit."""
        follows = continuation(self.text, self.target_new, self.separator)
        target = follows.lstrip()
        between = follows[: len(follows) - len(target)]
        return f"{self.prompt}{between}".rstrip(" "), self.subject.rstrip(), target.rstrip()

    @property
    def question(self) -> tuple[str, str]:
        """`signature` without the target: of two facts with one question the later replaces the earlier."""
        return self.signature[:2]

    @classmethod
    def from_record(cls, record: Mapping[str, Any], case_id: int | str | None = None) -> Fact:
        """Read one record of EasyEdit (flat or request), ROME/CounterFact, MEND/zsRE, KnowEdit, or Fact's own fields.

        record: a mapping; `case_id` is used when the record carries none. Fields that a Fact has no place for
        (attribute prompts, personas, ...) are ignored, but for those that are nearly spelt like one it has. A record of
        CounterFact without reversal prompts gets that of its relation, where nse_plugin/data/reversal_templates.json
        has one. Without `separator` a space is put before what follows a prompt, as those tools do, unless white space
        is there, or the script of one of the two has none.
        A record without a subject gets the one that is found in its texts.
        Raises FactError naming the missing, misspelt or malformed field; also when the subject is not found exactly
        once, as a whole word, in a prompt that has it written out.
        """
        if not isinstance(record, Mapping):
            raise FactError(f"A record must be a mapping, not {type(record).__name__}: {record!r:.80}.")
        if record.get("case_id") is not None:
            case_id = record["case_id"]
        where = "" if case_id is None else f"fact {case_id}: "
        read, known = _form(record)
        if misspelt := misspelt_field(record, known):
            raise FactError(f"{where}there is no field {misspelt[0]!r}: did you mean {misspelt[1]!r}?")
        try:
            fields = read(record)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise FactError(
                f"{where}the record is malformed ({type(error).__name__}: {error}): bring it into the form of "
                f"EasyEdit, ROME, MEND or KnowEdit: {record!r:.200}."
            ) from error
        for field in REQUIRED_FIELDS:
            if fields.get(field) is None:
                raise FactError(
                    f"{where}{field} is missing: a record needs a prompt (in MEND's form src) and a target_new (alt)."
                )
        fields["prompt"] = _with_slot(fields["prompt"], fields["subject"], where)
        fields["aliases"] = record.get("aliases") or ()
        fact = cls(case_id=case_id, separator=record.get("separator"), **fields)
        return dataclasses.replace(fact, separator=" ") if "separator" not in record and fact._wants_spaces() else fact

    def _wants_spaces(self) -> bool:
        """Whether a space parts what is written without one, such as a question mark and its answer."""
        targets = [text for text in (self.target_new, self.target_true) if text is not None]
        pairs = [(prompt, target) for prompt in (self.text, *self.rephrase_prompts) for target in targets]
        pairs += [*self.locality_prompts, *self.portability_prompts, *self.reversal_prompts]
        unspaced = any(is_unspaced(edge) for edge in (self.text[-1], self.target_new[0]))
        return not unspaced and any(continuation(*pair) != continuation(*pair, " ") for pair in pairs)


Pair = tuple[str, str] | tuple[str, str, str]  # a prompt, what follows it, and the separator where one was given
Facts = Fact | Mapping[str, Any] | Iterable[Fact | Mapping[str, Any]]


def as_facts(facts: Facts) -> list[Fact]:
    """The facts as a list: of one Fact, one record that `Fact.from_record` reads, or an iterable of these.

    Raises FactError for anything else, and for a record that cannot be read, naming its place in the iterable.
    """
    if isinstance(facts, Fact | Mapping):
        facts = [facts]
        places = ["facts"]
    else:
        is_listed = isinstance(facts, Iterable) and not isinstance(facts, str | bytes)
        if not is_listed or type(facts).__name__ in _PANDAS:  # these iterate over names of columns, or cells
            raise FactError(f"facts is {_described(facts)}: {_WANTED}.")
        facts = list(facts)
        places = [f"facts[{place}]" for place in range(len(facts))]
    read = [_as_fact(fact, place) for fact, place in zip(facts, places, strict=True)]
    warn_of_found_subjects(facts, read)
    return read


def warn_of_found_subjects(records: Iterable[Any], facts: Iterable[Fact], where: str = "") -> None:
    """Log one warning for all facts whose records give no subject.

    records: what each fact was read from; those that are no mapping are passed over. where: begins the message.
    """
    pairs = zip(records, facts, strict=True)
    found = [fact for record, fact in pairs if isinstance(record, Mapping) and not _gives_subject(record)]
    if found:
        log.warning(
            "%s%s without a subject: it was found in the texts, in %r it is %r. Give the subject where it is wrong; "
            "each is logged at level INFO.", where, number_of(len(found), "fact"), found[0].text, found[0].subject,
        )  # fmt: skip


def _gives_subject(record: Mapping[str, Any]) -> bool:
    if "requested_rewrite" in record:
        record = record["requested_rewrite"]
    return record.get("concept" if _form(record)[0] is _from_wikibio else "subject") is not None


def _as_fact(fact: Any, where: str) -> Fact:
    if isinstance(fact, Fact):
        return fact
    if not isinstance(fact, Mapping):
        raise FactError(f"{where} is {_described(fact)}: {_WANTED}.")
    try:
        return Fact.from_record(fact)
    except FactError as error:
        raise FactError(f"{where}: {error}") from error


def continuation(prompt: str, target: str, separator: str | None = None) -> str:
    """The target as it follows a prompt.

    Both are taken as they are written; a space at the end of one and the beginning of the other is one space. Where
    neither has white space there, `separator` goes between them; None: a space where the two would otherwise run into
    one word (letters or digits on both sides, of scripts that part words by spaces), and else nothing.
    """
    if prompt[-1:].isspace() or target[:1].isspace():
        return target.removeprefix(" ") if prompt.endswith(" ") else target
    if separator is None:
        is_one_word = all(is_letter(edge) and not is_unspaced(edge) for edge in prompt[-1:] + target[:1])
        separator = " " if is_one_word else ""
    return separator + target


def _described(value: Any) -> str:
    """A value in an error message: itself where it is short, otherwise its type."""
    if value is None or isinstance(value, str | bytes | int | float):
        return f"{value!r:.80}"
    name = type(value).__name__
    return f"of type {name}" + (f" ({_PANDAS[name]} is what is wanted)" if name in _PANDAS else "")


def misspelt_field(
    names: Iterable[Any], known: Collection[str] = RECORD_FIELDS, cutoff: float = 0.8
) -> tuple[str, str] | None:
    """The first of the names that is nearly one of `known`, and which: where none that it is near to is there too, and
    it is no field of another form of record. cutoff: how near, as `difflib.get_close_matches` counts it, 0 to 1."""
    given = {name for name in names if isinstance(name, str)}
    for name in sorted(given - _ALL_FIELDS):
        near = get_close_matches(re.sub(r"[\s-]+", "_", name.strip().lower()), known, cutoff=cutoff)
        if near and not given & {*near}:
            return name, near[0]
    return None


def _with_slot(prompt: Any, subject: Any, where: str) -> Any:
    """Turn a prompt with the subject written out into a template; leave templates and non-strings alone."""
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


def _form(record: Mapping[str, Any]) -> tuple[Callable[[Mapping[str, Any]], dict[str, Any]], tuple[str, ...]]:
    """How a record is read, and the fields that are read of it."""
    if "requested_rewrite" in record:
        return _from_rome, _ROME_FIELDS
    if "src" in record and "alt" in record:
        return _from_mend, _MEND_FIELDS
    if "concept" in record and "labels" in record:
        return _from_wikibio, _WIKIBIO_FIELDS
    return _from_easyedit, RECORD_FIELDS


def _from_easyedit(record: Mapping[str, Any]) -> dict[str, Any]:
    """EasyEdit's flat and request forms, KnowEdit's questions, and Fact's own fields."""
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
        **_probes(record),
    }


def _from_wikibio(record: Mapping[str, Any]) -> dict[str, Any]:
    """KnowEdit's WikiBio: a passage to be continued with a true sentence."""
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
    probes = _probes(record)
    sentence = _reversal_templates().get(rewrite.get("relation_id"))
    is_told = _is_text(fields["target_new"]) and fields["subject"] is not None
    if sentence and is_told and not probes["reversal_prompts"]:
        probes["reversal_prompts"] = [(sentence.replace(SLOT, fields["target_new"].strip()), fields["subject"])]
    return {**fields, **probes}


@functools.cache
def _reversal_templates() -> dict[str, str]:
    """By CounterFact's relation (Wikidata's number): a sentence that begins with the target and ends at the subject.

    Reversal is asked for as by Ma et al. 2023, arXiv 2310.10322; only relations with a natural inverse have one, which
    is true of the fact's subject, if mostly not of it alone.
    """
    text = (resources.files("nse_plugin.data") / "reversal_templates.json").read_text(encoding="utf-8")
    templates: dict[str, str] = json.loads(text)
    return templates


def _from_mend(record: Mapping[str, Any]) -> dict[str, Any]:
    """The prefix "nq question: " of its neighbours stays, as it does in EasyEdit and ROME."""
    return {
        "prompt": record["src"],
        "subject": record.get("subject"),
        "target_new": record["alt"],
        "target_true": _first(record.get("answers")),
        "rephrase_prompts": (record["rephrase"],) if record.get("rephrase") else (),
        "locality_prompts": _zipped(record["loc"], record["loc_ans"]) if record.get("loc") else (),
        **_probes(record),
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


def _probes(record: Mapping[str, Any]) -> dict[str, list[tuple[Any, Any]]]:
    """Portability and reversal prompts, of Fact's own fields or grouped under names as EasyEdit has them.

    Questions of the reversed relation stand under a name of their own in `portability` or `generalization`.
    """
    forward = [_pair(item) for item in _listed(record, "portability_prompts")]
    backward = [_pair(item) for item in _listed(record, "reversal_prompts")]
    portability = record.get("portability") or {}
    if not isinstance(portability, Mapping):  # CKnowEdit
        forward += [_pair(item) for item in portability]
    elif "New Question" in portability:  # EasyEdit's files that GPT-4 wrote: one question a record
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
    """The questions that a record has under one name, with their answers."""
    if isinstance(group, Mapping):  # EasyEdit's requests; None: a question that this record has not
        return [] if group["prompt"] is None else _zipped(group["prompt"], group["ground_truth"])
    # KnowEdit, some of whose questions have an empty answer: there is nothing to compare with
    asked = [(_first(item["prompt"]), _first(item["ground_truth"])) for item in group or ()]
    return [(question, answer) for question, answer in asked if answer is not None]


def _pair(item: Any) -> tuple[Any, Any]:
    return (item["prompt"], item["answer"]) if isinstance(item, Mapping) else (item[0], item[1])


def _listed(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = record.get(name) or ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{name} is {value!r:.80}, not a list")
    return value


def _shared_answer(target_true: str | None) -> str:
    """CounterFact's neighbours share the fact's true object."""
    if target_true is None:
        raise LookupError("locality prompts without answers need target_true")
    return target_true


def _zipped(prompts: str | Sequence[str], answers: Any) -> list[tuple[Any, Any]]:
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    answers = [answers] if isinstance(answers, str) else list(answers)
    return [(question, _first(answer)) for question, answer in zip(prompts, answers, strict=True)]


def _first(answer: Any) -> Any:
    """An answer, or the first of the alternatives listed in its place, however deep; None for an empty one."""
    while isinstance(answer, list | tuple):
        answer = answer[0] if answer else None
    return None if isinstance(answer, str) and not answer.strip() else answer


def _string(value: Any) -> Any:
    return value.get("str") if isinstance(value, Mapping) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only: no half of one, a lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_text(part) for part in value)


def check_round(facts: Sequence[Fact]) -> None:
    """Raise FactError when a round is empty, has a fact twice, or asks for two targets of one prompt and subject."""
    if not facts:
        raise FactError("facts is empty: a round needs at least one fact.")
    asked: dict[tuple[str, str], int] = {}
    for place, fact in enumerate(facts):
        prompt, subject, target = fact.signature
        first = asked.setdefault((prompt, subject), place)
        if (other := facts[first].signature[-1]) != target:
            raise FactError(
                f"Two facts of one round ask {fact.text!r} for different targets, {other!r} and {fact.target_new!r}: "
                "keep one, or put them in different rounds."
            )
        if first != place:
            both = " and ".join(_name(facts[number], number) for number in (first, place))
            raise FactError(
                f"Two facts of one round are the same, {both} ask {facts[first].text!r} for {target!r}: keep one, it "
                "would weigh twice."
            )


def _name(fact: Fact, place: int) -> str:
    return f"facts[{place}]" if fact.case_id is None else f"fact {fact.case_id}"
