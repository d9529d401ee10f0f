"""Convert what users pass as facts: a Fact, a record, or an iterable of these."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.fact import Fact
from nse_plugin.facts.records import gives_subject
from nse_plugin.support.suggestions import number_of

log = logging.getLogger(__name__)

_WANTED = "give a Fact, a dict with prompt, subject and target_new, or a list of these"
_PANDAS = {"DataFrame": "its .to_dict('records')", "Series": "its .to_dict()"}
Facts = Fact | Mapping[str, Any] | Iterable[Fact | Mapping[str, Any]]


def as_facts(facts: Facts) -> list[Fact]:
    """Convert one Fact, one record that `Fact.from_record` reads, or an iterable of these to a list of facts.

    Raises FactError for anything else, and if a record cannot be read, naming its index in the iterable.
    """
    if isinstance(facts, Fact | Mapping):
        facts = [facts]
        places = ["facts"]
    else:
        is_listed = isinstance(facts, Iterable) and not isinstance(facts, str | bytes)
        if not is_listed or type(facts).__name__ in _PANDAS:  # iterating over these gives column names or cells
            raise FactError(f"facts is {_described(facts)}: {_WANTED}.")
        facts = list(facts)
        places = [f"facts[{place}]" for place in range(len(facts))]
    read = [_as_fact(fact, place) for fact, place in zip(facts, places, strict=True)]
    warn_of_found_subjects(facts, read)
    return read


def warn_of_found_subjects(records: Iterable[object], facts: Iterable[Fact], where: str = "") -> None:
    """Log one warning for all facts whose records give no subject.

    records: the record of each fact; objects that are not mappings are ignored. where: the beginning of the message.
    """
    pairs = zip(records, facts, strict=True)
    found = [fact for record, fact in pairs if isinstance(record, Mapping) and not gives_subject(record)]
    if found:
        log.warning(
            "%s%s without a subject: it was found in the texts, in %r it is %r. Give the subject where it is wrong; "
            "each is logged at level INFO.", where, number_of(len(found), "fact"), found[0].text, found[0].subject,
        )  # fmt: skip


def _as_fact(fact: object, where: str) -> Fact:
    if isinstance(fact, Fact):
        return fact
    if not isinstance(fact, Mapping):
        raise FactError(f"{where} is {_described(fact)}: {_WANTED}.")
    try:
        return Fact.from_record(fact)
    except FactError as error:
        raise FactError(f"{where}: {error}") from error


def _described(value: object) -> str:
    """Describe a value in an error message: a plain value itself, cut to 80 characters; otherwise its type."""
    if value is None or isinstance(value, str | bytes | int | float):
        return f"{value!r:.80}"
    name = type(value).__name__
    return f"of type {name}" + (f" ({_PANDAS[name]} is what is wanted)" if name in _PANDAS else "")
