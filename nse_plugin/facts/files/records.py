"""Read a file of records (JSON, JSON lines, or a table) and check its format."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.fact import Fact
from nse_plugin.facts.files.tables import Row, read_rows


class DatasetError(ValueError):
    """Data that cannot be used as it is; the message names the file, the place in it and the remedy."""


TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class FoundRecord:
    """A record in a file. place: e.g. "line 3" (from 1, as in an editor) or "record 2" (from 0). problem: why the line
    cannot be parsed; "" if it can."""

    place: str
    content: Any
    problem: str = ""

    def fact(self, number: int) -> Fact:
        """Convert the record to a fact. number: its index among the records, used if it has no case_id. Raises
        FactError."""
        if self.problem:
            raise FactError(self.problem)
        record = self.content.record() if isinstance(self.content, Row) else self.content
        if self.place.startswith("record"):
            return Fact.from_record(record, case_id=number)
        fact = Fact.from_record(record)  # no case_id is passed, so that errors name the line's number only
        return dataclasses.replace(fact, case_id=number) if fact.case_id is None else fact


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises DatasetError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}): give a file that is there.") from error


def read_records(path: Path, data: bytes) -> list[FoundRecord]:
    """Read the records in `data`, the content of the file `path`.

    A line of a .jsonl or table file that cannot be parsed is a record with a `problem`, so that the other lines can be
    read. Raises DatasetError if the file as a whole is not a list of records.
    """
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
        return [_line(number, line) for number, line in lines if line.strip()]
    if suffix in TABLES:
        return [FoundRecord(f"line {row.line}", row, row.problem) for row in _table_rows(path, text)]
    records = _list(path, text)
    if not isinstance(records, list):
        raise DatasetError(f"{path} holds a JSON {type(records).__name__}, not a list of records: put them in a list.")
    if not records:
        raise DatasetError(f"{path} holds an empty list: give a file with at least one record.")
    return [FoundRecord(f"record {index}", record) for index, record in enumerate(records)]


def _table_rows(path: Path, text: str) -> list[Row]:
    try:
        return read_rows(text)
    except FactError as error:
        raise DatasetError(f"{path}, {error}") from error


def _line(number: int, line: str) -> FoundRecord:
    """Parse a line of a .jsonl file."""
    try:
        return FoundRecord(f"line {number}", _parsed(line))
    except FactError as error:
        return FoundRecord(f"line {number}", None, f"the line {error}")


def _list(path: Path, text: str) -> Any:
    """Parse a .json file. Raises DatasetError."""
    try:
        return _parsed(text, with_line=True)
    except FactError as error:
        raise DatasetError(f"{path} {error} (A file with a record a line must be named .jsonl.)") from error


def _parsed(text: str, with_line: bool = False) -> Any:
    """Parse JSON. with_line: name the line of a mistake, not only the column. Raises FactError; its message continues
    the name of the text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise FactError("nests too many lists: give plain records.") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if with_line else ""
        raise FactError(f"is not valid JSON at {line}column {error.colno} ({error.msg}): correct it there.") from error
    except ValueError as error:  # a number with thousands of digits
        raise FactError(f"cannot be read ({error}): correct it there.") from error
