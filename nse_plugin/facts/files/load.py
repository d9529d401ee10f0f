"""Facts from a file, or from a benchmark by its name.

A file is .json (a list of records) or .jsonl (a record a line), each record in any form that `Fact.from_record` reads,
or .csv (a fact a row, see `tables`).
CounterFact and zsRE are those that ROME published (`published`). ROME's attribute_snippets.json holds the texts that
its Consistency compares with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nse_plugin.facts.conversion import warn_of_found_subjects
from nse_plugin.facts.errors import FactError
from nse_plugin.facts.fact import Fact
from nse_plugin.facts.files.published import PUBLISHED, download
from nse_plugin.facts.files.records import TABLES, DatasetError, FoundRecord, read_bytes, read_records
from nse_plugin.facts.files.snippets import SnippetTexts, read_snippets, references_of
from nse_plugin.facts.files.tables import Row
from nse_plugin.support.suggestions import number_of

log = logging.getLogger(__name__)

DEMO = "demo"
BUNDLED = {  # by name, the file in nse_plugin/data
    DEMO: "demo_facts.json",
    **{name: f"{name}.json" for name in ("same_subject", "same_subject_chat", "unspaced")},
}
_OURS = Path(__file__).parents[2] / "data"
NAMES = (*BUNDLED, *PUBLISHED)


@dataclass(frozen=True)
class Loaded:
    """Facts, and where they come from.

    path: the file. sha256: of that file, as it was read. skipped: (place among the records from 0, what is wrong with
    it) of each bad record left out; places: where each of these is in the file, as in "line 3". corrected: a note on
    each prompt and subject that has another target than before.
    """

    facts: list[Fact]
    path: Path
    sha256: str
    skipped: list[tuple[int, str]]
    places: list[str] = field(default_factory=list)
    corrected: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self.facts)

    def __len__(self) -> int:
        return len(self.facts)


def load_facts(
    source: str | Path,
    limit: int | None = None,
    skip_bad: bool = False,
    snippets: str | Path | None = None,
    skip: int = 0,
) -> Loaded:
    """Read the first `limit` facts (None: all) of a .csv, .json or .jsonl file, or of one of `NAMES`.

    skip: leave out this many facts before them.
    A record without a case_id gets its place among the records, from 0, and one without a subject that which is found
    in its texts; one warning names it. skip_bad: leave bad records out and go on, instead of stopping at the first.
    snippets: ROME's attribute_snippets.json; fills `reference_texts` of the records in ROME's form, by relation and new
    target.
    A fact that is there twice is logged as a warning, since published data have such; skip_bad leaves the second out.
    So is a prompt and subject with another target than before, which is a correction where its round comes later, but
    for those of our own data.

    Raises DatasetError when the file cannot be had or read, a record is bad (FactError's message, or a case_id that was
    there before), or there are fewer facts than `limit`.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"limit is {limit}: ask for at least one fact, or give None for all.")
    if skip < 0:
        raise DatasetError(f"skip is {skip}: give the number of facts to leave out, 0 or more.")
    path = _file_of(source)
    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    published = PUBLISHED.get(str(source))
    if published and published.sha256 not in (None, sha256):
        raise DatasetError(
            f"{path} has the SHA-256 {sha256}, and {source} as published has {published.sha256}: delete the file to "
            "have it downloaded again, or give its path as the data source to use it as it is."
        )
    records = read_records(path, data)
    texts = read_snippets(Path(snippets).expanduser()) if snippets else {}
    facts, skipped, corrected = _facts(path, records, None if limit is None else skip + limit, skip_bad, texts)
    if skipped:
        number, problem = skipped[0]
        first = records[number].place
        first = first if len(skipped) == 1 else f"the first of them {first}"
        log.warning("%s: %s left out, %s: %s", path, number_of(len(skipped), "bad record"), first, problem)
    if not facts:
        raise DatasetError(f"{path} has no good record; the first, {records[0].place}: {skipped[0][1]}")
    if (limit is not None and len(facts) < skip + limit) or len(facts) <= skip:
        left_out = f" besides {number_of(len(skipped), 'bad record')}" if skipped else ""
        asked = f"{limit or 'some'} are asked for" + (f" after the first {skip}" if skip else "")
        raise DatasetError(
            f"{path} has {number_of(len(facts), 'fact')}{left_out}, and {asked}: take {max(0, len(facts) - skip)} or "
            "fewer, or all."
        )
    facts = facts[skip:]
    if texts and not any(fact.reference_texts for fact in facts):
        log.warning("%s has no texts for any of the facts of %s: Consistency will be absent.", snippets, path)
    return Loaded(facts, path, sha256, skipped, [records[number].place for number, _ in skipped], corrected)


def _facts(
    path: Path, records: list[FoundRecord], limit: int | None, skip_bad: bool, texts: SnippetTexts
) -> tuple[list[Fact], list[tuple[int, str]], list[str]]:
    """The first `limit` facts, (place, problem) of the bad records among them, and a note on corrections."""
    facts: list[Fact] = []
    skipped: list[tuple[int, str]] = []
    numbers: dict[str, str] = {}  # case_id, as the results write it, to the place of its record
    edits: dict[tuple[str, str, str], str] = {}
    targets: dict[tuple[str, str], tuple[str, str]] = {}  # by prompt and subject: the first target, and its place
    twice: list[str] = []
    corrected: list[str] = []
    used: list[Any] = []
    for index, record in enumerate(records):
        if len(facts) == limit:
            break
        try:
            fact = record.fact(index)
            if (first := numbers.setdefault(str(fact.case_id), record.place)) != record.place:
                raise FactError(f"case_id {fact.case_id!r} is that of {first} too: give each its own.")
            if (first := edits.setdefault(fact.signature, record.place)) != record.place:
                again = f"it is the fact of {first} again, {fact.text!r} to {fact.target_new!r}"
                if skip_bad:
                    raise FactError(f"{again}.")
                twice.append(f"{record.place}: {again}")
            asked, target = fact.signature[:2], fact.signature[2]
            before, first = targets.setdefault(asked, (target, record.place))
            if before != target:
                corrected.append(f"{record.place}: {fact.text!r} is {fact.target_new!r} here and {before!r} in {first}")
        except FactError as error:
            if not skip_bad:
                counted = " (counted from 0)" if record.place.startswith("record") else ""
                raise DatasetError(
                    f"{path}, {record.place}{counted}: {error} skip_bad leaves such records out."
                ) from error
            log.info("%s, %s left out: %s", path, record.place, error)
            skipped.append((index, str(error)))
            continue
        used.append(record.content.cells if isinstance(record.content, Row) else record.content)
        references = references_of(record.content, texts)
        facts.append(dataclasses.replace(fact, reference_texts=references) if references else fact)
    warn_of_found_subjects(used, facts, f"{path}: ")
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        log.warning("%s, %s%s: it counts twice, and no round takes both; skip_bad leaves it out.", path, twice[0], more)
    if corrected and path.parent != _OURS:  # ours are meant to
        more = f" (and {len(corrected) - 1} more)" if len(corrected) > 1 else ""
        log.warning("%s, %s%s: no round takes both, and the later one replaces the other.", path, corrected[0], more)
    return facts, skipped, corrected


def _file_of(source: str | Path) -> Path:
    if source in BUNDLED:
        return _OURS / BUNDLED[str(source)]
    if source in PUBLISHED:
        published = PUBLISHED[str(source)]
        if not published.file.is_file():
            download(str(source), published)
        return published.file
    path = Path(source).expanduser()
    if path.suffix.lower() not in (*TABLES, ".json", ".jsonl"):
        raise DatasetError(
            f"data source {str(source)!r} cannot be used: give a .csv, .json or .jsonl file, or one of "
            f"{', '.join(NAMES)}."
        )
    return path
