"""Facts from a file, or from a benchmark by its name.

A file is .json (a list of records) or .jsonl (a record a line), each record in any form that `Fact.from_record` reads,
or .csv (a fact a row, see `nse_plugin.csv_facts`).
CounterFact and zsRE are those that ROME published (Meng et al. 2022, arXiv 2202.05262): downloaded once, kept in
`cache_home()/data`, and compared with the published SHA-256 each time. ROME's attribute_snippets.json holds the texts
that its Consistency compares with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import logging
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nse_plugin.csv_facts import Row, read_rows
from nse_plugin.facts import Fact, FactError, warn_of_found_subjects
from nse_plugin.support.files import cache_home, written_whole
from nse_plugin.support.progress import bar
from nse_plugin.support.suggestions import number_of

log = logging.getLogger(__name__)

DEMO = "demo"
BUNDLED = {  # by name, the file in nse_plugin/data
    DEMO: "demo_facts.json",
    **{name: f"{name}.json" for name in ("same_subject", "same_subject_chat", "unspaced")},
}
_OURS = Path(__file__).with_name("data")
_CHUNK = 1 << 18  # bytes
_SILENCE = 30.0  # seconds without a byte after which a download is given up


class DatasetError(ValueError):
    """Data that cannot be used as they are; the message names the file, the place in it and the remedy."""


@dataclass(frozen=True)
class Published:
    """A data set on the web. sha256: of the published file; None where nobody published one."""

    url: str
    sha256: str | None

    @property
    def file(self) -> Path:
        """Where it is kept once downloaded."""
        return cache_home() / "data" / self.url.rsplit("/", 1)[-1]


PUBLISHED = {
    "counterfact": Published(  # 45,108,470 bytes
        "https://rome.baulab.info/data/dsets/counterfact.json",
        "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f",
    ),
    "zsre": Published("https://rome.baulab.info/data/dsets/zsre_mend_eval.json", None),
}
NAMES = (*BUNDLED, *PUBLISHED)
TABLES = (".csv", ".tsv")

SnippetTexts = dict[tuple[str, str], tuple[str, ...]]  # by relation and target


@dataclass(frozen=True)
class _Found:
    """A record of a file. place: where, as in "line 3" (as an editor counts) or "record 2" (from 0)."""

    place: str
    content: Any

    def fact(self, number: int) -> Fact:
        """number: its place among the records, for one without a case_id. Raises FactError."""
        record = self.content.record() if isinstance(self.content, Row) else self.content
        if self.place.startswith("record"):
            return Fact.from_record(record, case_id=number)
        fact = Fact.from_record(record)  # whose errors name no other number than the line's
        return dataclasses.replace(fact, case_id=number) if fact.case_id is None else fact


@dataclass(frozen=True)
class Loaded:
    """Facts, and where they come from.

    path: the file. sha256: of that file, as it was read. skipped: (place among the records from 0, what is wrong with
    it) of each bad record left out.
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
    """Read the first `limit` facts (None: all) of a .csv, .json or .jsonl file, or of one of `NAMES`.

    skip: leave so many facts out before them.
    A record without a case_id gets its place among the records, from 0, and one without a subject that which is found
    in its texts; one warning says so. skip_bad: leave bad records out and go on to the next, instead of stopping at the
    first. snippets: ROME's attribute_snippets.json; fills `reference_texts` of the records in ROME's form, by relation
    and new target.
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
    data = _read(path)
    sha256 = hashlib.sha256(data).hexdigest()
    published = PUBLISHED.get(str(source))
    if published and published.sha256 not in (None, sha256):
        raise DatasetError(
            f"{path} has the SHA-256 {sha256}, and {source} as published has {published.sha256}: delete the file to "
            "have it downloaded again, or give its path as the data source to use it as it is."
        )
    records = _records(path, data)
    texts = _snippet_texts(Path(snippets).expanduser()) if snippets else {}
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


def _facts(
    path: Path, records: list[_Found], limit: int | None, skip_bad: bool, texts: SnippetTexts
) -> tuple[list[Fact], list[tuple[int, str]]]:
    """The first `limit` facts, and (place, problem) of the bad records among them."""
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
        references = _references(record.content, texts)
        facts.append(dataclasses.replace(fact, reference_texts=references) if references else fact)
    warn_of_found_subjects(used, facts, f"{path}: ")
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        log.warning("%s, %s%s: it counts twice, and no round takes both; skip_bad leaves it out.", path, twice[0], more)
    if corrected and path.parent != _OURS:  # ours are meant to
        more = f" (and {len(corrected) - 1} more)" if len(corrected) > 1 else ""
        log.warning("%s, %s%s: no round takes both, and the later one replaces the other.", path, corrected[0], more)
    return facts, skipped


def _file_of(source: str | Path) -> Path:
    if source in BUNDLED:
        return _OURS / BUNDLED[str(source)]
    if source in PUBLISHED:
        published = PUBLISHED[str(source)]
        if not published.file.is_file():
            _download(str(source), published)
        return published.file
    path = Path(source).expanduser()
    if path.suffix.lower() not in (*TABLES, ".json", ".jsonl"):
        raise DatasetError(
            f"data source {str(source)!r} cannot be used: give a .csv, .json or .jsonl file, or one of "
            f"{', '.join(NAMES)}."
        )
    return path


def _download(name: str, published: Published) -> None:
    """Fetch the file; it takes its name only when it is whole and what was published."""
    try:
        with written_whole(published.file) as temporary:
            _fetch(name, published.url, temporary)
            _check(_read(temporary), published)
    except (OSError, http.client.HTTPException, DatasetError) as error:
        raise DatasetError(
            f"{name} cannot be downloaded from {published.url} ({error}): try again when online, or put the file at "
            f"{published.file} by hand."
        ) from error
    log.info("%s downloaded into %s.", name, published.file)


def _check(data: bytes, published: Published) -> None:
    """Where no hash was published, what came must at least be records, not a login page."""
    if published.sha256 is None:
        try:
            _records(published.file, data)
        except DatasetError as error:
            raise DatasetError("what came is no list of records") from error
    elif (sha256 := hashlib.sha256(data).hexdigest()) != published.sha256:
        raise DatasetError(f"what came has the SHA-256 {sha256}, and the published file has {published.sha256}")


def _fetch(name: str, url: str, file: Path) -> None:
    with urllib.request.urlopen(url, timeout=_SILENCE) as response, file.open("wb") as stream:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with bar(f"downloading {name}, bytes", total) as advance:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                advance(len(chunk))
        received = stream.tell()
    if received != (total or received):  # urllib takes a broken connection for the end
        raise OSError(f"the connection broke after {received} of {total} bytes")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): give a file that is there.") from error


def _records(path: Path, data: bytes) -> list[_Found]:
    """data: what `path` holds."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        hint = " (in a spreadsheet: CSV UTF-8)" if path.suffix.lower() in TABLES else ""
        raise DatasetError(f"{path} is not a UTF-8 text ({error}): save it as UTF-8{hint}.") from error
    if not text.strip():
        raise DatasetError(f"{path} is empty: give a file with at least one record.")
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        lines = enumerate(text.split("\n"), 1)  # splitlines would also split inside a record, at U+2028
        return [_Found(f"line {number}", _parsed(path, line, number)) for number, line in lines if line.strip()]
    records = _rows(path, text) if suffix in TABLES else _parsed(path, text)
    if not isinstance(records, list):
        raise DatasetError(f"{path} holds a JSON {type(records).__name__}, not a list of records: put them in a list.")
    if not records:
        raise DatasetError(f"{path} holds an empty list: give a file with at least one record.")
    return [
        _Found(f"line {record.line}" if isinstance(record, Row) else f"record {index}", record)
        for index, record in enumerate(records)
    ]


def _rows(path: Path, text: str) -> list[Row]:
    try:
        return read_rows(text)
    except FactError as error:
        raise DatasetError(f"{path}, {error}") from error


def _parsed(path: Path, text: str, line: int = 1) -> Any:
    """text: what begins at `line` of the file."""
    try:
        return json.loads(text)
    except RecursionError:
        raise DatasetError(f"{path} nests too many lists from line {line} on: give a list of records.") from None
    except json.JSONDecodeError as error:
        hint = "" if path.suffix.lower() == ".jsonl" else " (A file with a record a line must be named .jsonl.)"
        raise DatasetError(
            f"{path} is not valid JSON at line {line + error.lineno - 1}, column {error.colno} ({error.msg}): correct "
            f"it there.{hint}"
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise DatasetError(f"{path} cannot be read from line {line} on ({error}): correct it there.") from error


def _snippet_texts(path: Path) -> SnippetTexts:
    """ROME's snippets, `[{relation_id, target_id, samples: [{name, text}]}]`."""
    texts: SnippetTexts = {}
    for index, entry in enumerate(found.content for found in _records(path, _read(path))):
        try:
            key = (str(entry["relation_id"]), str(entry["target_id"]))
            found = tuple(sample["text"] for sample in entry["samples"] if sample["text"].strip())
            texts[key] = texts.get(key, ()) + found
        except (AttributeError, LookupError, TypeError) as error:
            raise DatasetError(
                f"{path}, entry {index} (counted from 0): {type(error).__name__} {error}: each needs relation_id, "
                "target_id and samples, a list of objects with a text, as in ROME's attribute_snippets.json."
            ) from error
    return texts


def _references(record: Any, texts: SnippetTexts) -> tuple[str, ...]:
    """The texts about what the new target is true of; () for a record that is not in ROME's form."""
    rewrite = record.get("requested_rewrite", {}) if isinstance(record, Mapping) else {}
    target = rewrite.get("target_new")
    if not isinstance(target, Mapping):
        return ()
    return texts.get((str(rewrite.get("relation_id")), str(target.get("id"))), ())
