"""Facts in a table: CSV with the fields of `Fact` as columns, as written by a spreadsheet.

A cell for several texts (rephrase_prompts, generation_prompts, reference_texts, aliases) has one text, or a JSON list
of texts; a cell for pairs (locality_prompts, portability_prompts, reversal_prompts) has a JSON list of
[prompt, answer]. An empty cell means that the fact does not have the field. Cells are separated by commas, semicolons
or tabs; white space around a cell is removed, except at the end of a prompt and in a
separator.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.records import EDIT_FIELDS, RECORD_FIELDS, REQUIRED_FIELDS, misspelt_field
from nse_plugin.support.suggestions import number_of

DELIMITERS = ",;\t"
_TEXT = (*EDIT_FIELDS, "target_true", "ground_truth")
_TEXTS = ("rephrase_prompts", "generation_prompts", "reference_texts", "aliases")
_PAIRS = ("locality_prompts", "portability_prompts", "reversal_prompts")


@dataclass(frozen=True)
class Row:
    """The non-empty cells of a fact, by column. line: where the row begins, counted from 1 as in an editor. problem:
    why the row cannot be parsed; "" if it can."""

    line: int
    cells: dict[str, str]
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """Convert the row to a record for `Fact.from_record`. Raises FactError naming the column of a cell that is
        missing or cannot be read."""
        for name in REQUIRED_FIELDS:
            if name not in self.cells:
                raise FactError(f"column {name} is empty: a fact needs {' and '.join(REQUIRED_FIELDS)}.")
        return {name: _value(name, cell) for name, cell in self.cells.items()}


def read_rows(text: str) -> list[Row]:
    """Read the rows of a table whose first row names the columns. Columns that are not fields of a fact are ignored.

    A row that is not CSV or has more cells than there are columns is returned with a `problem`. Raises FactError,
    naming the line, if the header is not CSV, lacks, misspells or repeats a column, or no row follows it.
    """
    before, header = _header(text)
    delimiter = max(DELIMITERS, key=header.count)
    rows: list[Row] = []
    columns: list[str] = []
    for line, cells in _cells(text, delimiter):
        if line <= before:
            continue
        if not columns:
            if isinstance(cells, csv.Error):
                raise FactError(f"line {line} {_not_csv(cells)}")
            columns = _columns(cells, line)
        elif (row := _row(line, cells, columns, delimiter)) is not None:
            rows.append(row)
    if not rows:
        raise FactError(f"line {before + 1} names the columns, and no fact follows: write a fact a line.")
    return rows


def _cells(text: str, delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield the line where each row begins, and its cells, or the error if the row is not CSV. Reading goes on at the
    line after the error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        while True:
            line = reader.line_num + 1
            try:
                yield line, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, error
    finally:
        csv.field_size_limit(limit)


def _row(line: int, cells: list[str] | csv.Error, columns: Sequence[str], delimiter: str) -> Row | None:
    """Return a row; None if all its cells are empty."""
    if isinstance(cells, csv.Error):
        return Row(line, {}, f"the row {_not_csv(cells)}")
    if any(cell.strip() for cell in cells[len(columns) :]):
        count = f"{number_of(len(cells), 'cell')} for {number_of(len(columns), 'column')}"
        return Row(line, {}, f"the row has {count}: put a text in quotes that holds {delimiter!r}.")
    given = {name: cell for name, cell in zip(columns, cells, strict=False) if _is_given(name, cell)}
    fields = {name: _trimmed(name, cell) for name, cell in given.items() if name in RECORD_FIELDS}
    return Row(line, fields) if given else None


def _not_csv(error: csv.Error) -> str:
    return f"is not CSV ({error}): put the text in quotes, and double those in it."


def _header(text: str) -> tuple[int, str]:
    """Return the number of lines before the header, and the header itself. "sep=;", which spreadsheets write and read,
    is not a header."""
    for number, line in enumerate(io.StringIO(text, newline=None)):
        if line.strip() and not line.lower().startswith("sep="):
            return number, line
    return 0, ""


def _is_given(name: str, cell: str) -> bool:
    return bool(cell if name == "separator" else cell.strip())


def _trimmed(name: str, cell: str) -> str:
    if name == "separator":
        return cell
    return cell.lstrip() if name == "prompt" else cell.strip()


def _columns(header: Sequence[str], line: int) -> list[str]:
    """Return the column names in the header. line: the header's line number. Raises FactError."""
    columns = [name.strip() for name in header]
    if misspelt := misspelt_field(columns):
        raise FactError(f"line {line}, column {misspelt[0]!r}: there is no such field; did you mean {misspelt[1]!r}?")
    if missing := [name for name in REQUIRED_FIELDS if name not in columns]:
        raise FactError(
            f"line {line} names no column {missing[0]!r}: the first line names the columns of the facts' fields, "
            "separated by commas, semicolons or tabs."
        )
    if twice := [name for name in columns if name and columns.count(name) > 1]:
        raise FactError(f"line {line} names the column {twice[0]!r} twice: leave one out.")
    return columns


def _value(name: str, cell: str) -> Any:
    """Convert a non-empty cell to the field's value. Raises FactError."""
    if name == "case_id":
        return int(cell) if cell.strip().isdecimal() else cell.strip()
    is_json = cell.lstrip().startswith("[") and name not in _TEXT
    if not is_json and name not in _PAIRS:
        return [cell] if name in _TEXTS else cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = None
    if name in _PAIRS and not _are_pairs(value):
        raise FactError(f'column {name} is {cell!r:.80}: write its pairs as JSON, [["prompt", "answer"], ...].')
    if not isinstance(value, list):
        raise FactError(f'column {name} is {cell!r:.80}: write one text, or a JSON list of texts, ["one", "two"].')
    return value


def _are_pairs(value: object) -> bool:
    """Whether this is a list of pairs, each a list of two items or an object with prompt and answer."""
    return isinstance(value, list) and all(
        {*item} == {"prompt", "answer"} if isinstance(item, dict) else isinstance(item, list) and len(item) == 2
        for item in value
    )
