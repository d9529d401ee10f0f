"""A fact: what the model should predict after the edit, and how to ask for it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.records import EDIT_FIELDS, REQUIRED_FIELDS, form_of, misspelt_field, with_slot
from nse_plugin.facts.subject_of import UnknownSubjectError, find_subject
from nse_plugin.facts.texts import SLOT, Pair, continuation, is_pair, is_text, is_unicode
from nse_plugin.facts.words import is_unspaced

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fact:
    """One association `(subject, relation) -> target_new`.

    prompt: the relation template with exactly one `{}` where the subject goes, e.g. "The capital of {} is".
    subject: the entity; the fact is looked up at its last token. None if the prompt has the subject written out:
    it is then found by `subject_of`, and both fields are set.
    target_new: the new continuation of the prompt, joined to it by `continuation`.
    target_true: the present continuation; only the measurements need it.
    rephrase_prompts: other wordings of the prompt, with the subject written out (Generalization).
    locality_prompts: `(prompt, true answer)` pairs that must not change (Specificity).
    case_id: the record's own number or name, which the reports repeat.
    generation_prompts: texts about the subject that the model is asked to continue (Fluency, Consistency).
    reference_texts: texts about other things of which target_new is true; Consistency compares the continuations with
    them.
    portability_prompts: `(prompt, answer)` pairs that follow from the fact, such as a question one hop further.
    reversal_prompts: `(prompt, answer)` pairs that ask for the subject: the fact stated in the other direction.
    separator: the text between any of the fact's prompts and its answer, if neither has white space there. None: a
    space if the two would run into one word, otherwise nothing.
    aliases: other names of the subject, for which the fact is written too.

    Raises FactError if prompt, subject or target_new is empty, the prompt does not have exactly one `{}`, another field
    does not have the form above, or the subject is None and cannot be inferred.
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
            if not is_text(value):
                raise FactError(f"{self._where()}{field} is {value!r}: give it as a non-empty string of characters.")
        if not (self.target_true is None or is_text(self.target_true)):
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
            if not is_text(text):
                raise FactError(f"{self._where()}{field} holds {text!r:.80}: give non-empty strings only.")
        return texts

    def _pairs(self, field: str) -> tuple[tuple[str, str], ...]:
        value = getattr(self, field)
        if isinstance(value, Iterable) and not isinstance(value, str):
            pairs = tuple(value)
            if all(is_pair(pair) for pair in pairs):
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
        """The subject and its aliases, without duplicates."""
        names: dict[str, str] = {}
        for name in (self.subject, *self.aliases):
            names.setdefault(name.strip(), name)
        return tuple(names.values())

    def named(self, name: str) -> Fact:
        """Return the same fact with another name as its subject."""
        return self if name == self.subject else dataclasses.replace(self, subject=name)

    def asked(self, prompt: str, answer: str) -> Pair:
        """Return one of the fact's prompts and its answer as `evaluation.teacher_forcing.predict` takes them."""
        return (prompt, answer) if self.separator is None else (prompt, answer, self.separator)

    @property
    def signature(self) -> tuple[str, str, str]:
        """(prompt with the separator, subject, target), without the spaces that make no difference: facts with the same
        signature are the same edit."""
        follows = continuation(self.text, self.target_new, self.separator)
        target = follows.lstrip()
        between = follows[: len(follows) - len(target)]
        return f"{self.prompt}{between}".rstrip(" "), self.subject.rstrip(), target.rstrip()

    @property
    def question(self) -> tuple[str, str]:
        """`signature` without the target: of two facts with the same question, the later replaces the earlier."""
        return self.signature[:2]

    @classmethod
    def from_record(cls, record: Mapping[str, Any], case_id: int | str | None = None) -> Fact:
        """Read one record of EasyEdit (flat or request), ROME/CounterFact, MEND/zsRE, KnowEdit, or with Fact's own
        fields.

        record: a mapping. case_id: used if the record has none. Fields that Fact does not have (attribute prompts,
        personas, ...) are ignored, unless the name looks like a misspelt field. A CounterFact record without reversal
        prompts gets the one of its relation if nse_plugin/data/reversal_templates.json has one. If there is no
        `separator`, a space is put between prompt and answer, as those tools do, unless there is white space or one of
        the two is in a script without spaces.
        A record without a subject gets the subject that is found in its texts.
        Raises FactError naming the missing, misspelt or malformed field; also if the prompt has the subject written
        out, but not exactly once as a whole word.
        """
        if not isinstance(record, Mapping):
            raise FactError(f"A record must be a mapping, not {type(record).__name__}: {record!r:.80}.")
        if record.get("case_id") is not None:
            case_id = record["case_id"]
        where = "" if case_id is None else f"fact {case_id}: "
        read, known = form_of(record)
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
                raise FactError(f"{where}{field} is missing: a record needs {_needed(record)}.")
        fields["prompt"] = with_slot(fields["prompt"], fields["subject"], where)
        fields["aliases"] = record.get("aliases") or ()
        fact = cls(case_id=case_id, separator=record.get("separator"), **fields)
        return dataclasses.replace(fact, separator=" ") if "separator" not in record and fact._wants_spaces() else fact

    def _wants_spaces(self) -> bool:
        """Whether the separator must be a space because the default has none, as between a question mark and an
        answer."""
        targets = [text for text in (self.target_new, self.target_true) if text is not None]
        pairs = [(prompt, target) for prompt in (self.text, *self.rephrase_prompts) for target in targets]
        pairs += [*self.locality_prompts, *self.portability_prompts, *self.reversal_prompts]
        unspaced = any(is_unspaced(edge) for edge in (self.text[-1], self.target_new[0]))
        return not unspaced and any(continuation(*pair) != continuation(*pair, " ") for pair in pairs)


def _needed(record: Mapping[str, Any]) -> str:
    """Return the names of the fields that a record needs; MEND's names too if the record has one of them."""
    if "src" in record or "alt" in record:
        return "a prompt (in MEND's form src) and a target_new (alt)"
    return "a prompt and a target_new"
