"""Load facts from a file, or from a benchmark by its name.

A file is .json (a list of records) or .jsonl (one record per line), with records in any format that `Fact.from_record`
reads, or .csv or .tsv (one fact per row, see `tables`).
CounterFact and zsRE are the files that ROME published (`published`). ROME's attribute_snippets.json has the texts that
its Consistency metric compares with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
BUNDLED = {  # files in nse_plugin/data, by name
    DEMO: "demo_facts.json",
    **{name: f"{name}.json" for name in ("same_subject", "same_subject_chat", "unspaced")},
}
_OURS = Path(__file__).parents[2] / "data"
NAMES = (*BUNDLED, *PUBLISHED)


@dataclass(frozen=True)
class Loaded:
    """Facts and their origin.

    path: the file. sha256: of the file as it was read. skipped: (index of the record, from 0; what is wrong with it)
    for each bad record that was left out.
    """

    facts: list[Fact]
    path: Path
    sha256: str
    skipped: list[tuple[int, str]]

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
    """Read the first `limit` facts (None: all) of a .csv, .tsv, .json or .jsonl file, or of one of `NAMES`.

    skip: the number of facts to leave out before these.
    A record without a case_id gets its index among the records, from 0; a record without a subject gets the one found
    in its texts, and one warning is logged for all of these. skip_bad: leave out bad records, instead of raising at the
    first. snippets: ROME's attribute_snippets.json, from which `reference_texts` of records in ROME's format are
    filled, by relation and new target.
    A fact that occurs twice is logged as a warning, since published data has such facts; with skip_bad the second is
    left out. A prompt and subject with another target than before is also logged, except for this package's own data;
    it is a correction if it is in a later round.

    Raises DatasetError if the file cannot be found, downloaded or read, a record is bad (with FactError's message, or
    because its case_id occurred before), or there are fewer facts than asked for.
    """
    if limit is not None and limit < 1:
        raise DatasetError(f"limit is {limit}: ask for at least one fact, or give None for all.")
    if skip < 0:
        raise DatasetError(f"skip is {skip}: give the number of facts to leave out, 0 or more.")
    path, sha256, records = open_source(source)
    texts = read_snippets(Path(snippets).expanduser()) if snippets else {}
    facts, skipped = _facts(path, records, None if limit is None else skip + limit, skip_bad, texts)
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
    return Loaded(facts, path, sha256, skipped)


def open_source(source: str | Path) -> tuple[Path, str, list[FoundRecord]]:
    """Return the path of a file or of one of `NAMES`, the SHA-256 of its content, and its records. Raises
    DatasetError."""
    path = _file_of(source)
    data = read_bytes(path)
    sha256 = hashlib.sha256(data).hexdigest()
    published = PUBLISHED.get(str(source))
    if published and published.sha256 not in (None, sha256):
        raise DatasetError(
            f"{path} has the SHA-256 {sha256}, and {source} as published has {published.sha256}: delete the file to "
            "have it downloaded again, or give its path as the data source to use it as it is."
        )
    return path, sha256, read_records(path, data)


def converted(records: Iterable[FoundRecord]) -> Iterator[tuple[FoundRecord, Fact | FactError]]:
    """Yield each record with its fact, or with the error if it is bad: it cannot be converted, or its case_id is that
    of an earlier fact."""
    places: dict[str, str] = {}  # by case_id as text, as in the results
    for index, record in enumerate(records):
        try:
            fact = record.fact(index)
            if (first := places.setdefault(str(fact.case_id), record.place)) != record.place:
                raise FactError(f"case_id {fact.case_id!r} is that of {first} too: give each its own.")
        except FactError as error:
            yield record, error
        else:
            yield record, fact


def repeated(fact: Fact, place: str) -> str:
    """Say that an earlier record, at `place`, has the same fact."""
    return f"it is the fact of {place} again, {fact.text!r} to {fact.target_new!r}"


def contradicted(fact: Fact, target: str, place: str) -> str:
    """Say that an earlier record, at `place`, has another target for the fact's prompt and subject."""
    return f"{fact.text!r} is {fact.target_new!r} here and {target!r} in {place}"


def cells_of(record: FoundRecord) -> Any:
    """Return the fields that a record gives."""
    return record.content.cells if isinstance(record.content, Row) else record.content


def _facts(
    path: Path, records: list[FoundRecord], limit: int | None, skip_bad: bool, texts: SnippetTexts
) -> tuple[list[Fact], list[tuple[int, str]]]:
    """Return the first `limit` facts, and (index, problem) of the bad records among them."""
    facts: list[Fact] = []
    skipped: list[tuple[int, str]] = []
    edits: dict[tuple[str, str, str], str] = {}
    targets: dict[tuple[str, str], tuple[str, str]] = {}  # by prompt and subject: the first target, and its place
    twice: list[str] = []
    corrected: list[str] = []
    used: list[Any] = []
    for index, (record, fact) in enumerate(converted(records)):
        if isinstance(fact, Fact) and (first := edits.setdefault(fact.signature, record.place)) != record.place:
            again = repeated(fact, first)
            if skip_bad:
                fact = FactError(f"{again}.")
            else:
                twice.append(f"{record.place}: {again}")
        if isinstance(fact, FactError):
            if not skip_bad:
                counted = " (counted from 0)" if record.place.startswith("record") else ""
                raise DatasetError(
                    f"{path}, {record.place}{counted}: {fact} skip_bad leaves such records out."
                ) from fact
            log.info("%s, %s left out: %s", path, record.place, fact)
            skipped.append((index, str(fact)))
            continue
        before, first = targets.setdefault(fact.question, (fact.signature[2], record.place))
        if before != fact.signature[2]:
            corrected.append(f"{record.place}: {contradicted(fact, before, first)}")
        used.append(cells_of(record))
        references = references_of(record.content, texts)
        facts.append(dataclasses.replace(fact, reference_texts=references) if references else fact)
        if len(facts) == limit:
            break
    warn_of_found_subjects(used, facts, f"{path}: ")
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        log.warning("%s, %s%s: it counts twice, and no round takes both; skip_bad leaves it out.", path, twice[0], more)
    if corrected and path.parent != _OURS:  # this package's own data has corrections on purpose
        more = f" (and {len(corrected) - 1} more)" if len(corrected) > 1 else ""
        log.warning("%s, %s%s: no round takes both, and the later one replaces the other.", path, corrected[0], more)
    return facts, skipped


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
