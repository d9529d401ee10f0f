"""Facts in a table: CSV with the fields of `Fact` as columns, as a spreadsheet writes it.

A cell of a field with several texts (rephrase_prompts, generation_prompts, reference_texts) holds one text, or a JSON
list of texts; one of a field with pairs (locality_prompts, portability_prompts, reversal_prompts) a JSON list of
[prompt, answer]. An empty cell is a field that the fact does not have. Cells are separated by commas, semicolons or
tabs; white space round a cell is left out, but for what a prompt ends with.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
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
    """A fact's cells by column, without the empty ones. line: where it begins, as an editor counts."""

    line: int
    cells: dict[str, str]

    def record(self) -> dict[str, Any]:
        """What `Fact.from_record` reads. Raises FactError naming the column of a cell that is missing or cannot be
        read."""
        for name in REQUIRED_FIELDS:
            if name not in self.cells:
                raise FactError(f"column {name} is empty: a fact needs {' and '.join(REQUIRED_FIELDS)}.")
        return {name: _value(name, cell) for name, cell in self.cells.items()}


def read_rows(text: str) -> list[Row]:
    """The rows of a table whose first row names the columns. Columns that a fact has no field for are left out.

    Raises FactError, naming the line, for what is not CSV, a row with more cells than columns, a header that lacks,
    misspells or repeats a column, and where no row follows it.
    """
    before, header = _header(text)
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    columns: list[str] = []
    line = 1
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        for cells in reader:
            if line <= before:
                pass
            elif not columns:
                columns = _columns(cells, line)
            elif any(cell.strip() for cell in cells[len(columns) :]):
                raise FactError(
                    f"line {line} has {number_of(len(cells), 'cell')} for {number_of(len(columns), 'column')}: put a "
                    f"text in quotes that holds {delimiter!r}."
                )
            elif given := {name: cell for name, cell in zip(columns, cells, strict=False) if _is_given(name, cell)}:
                fields = {name: _trimmed(name, cell) for name, cell in given.items() if name in RECORD_FIELDS}
                rows.append(Row(line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise FactError(f"line {line} is not CSV ({error}): put the text in quotes, and double those in it.") from error
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise FactError(f"line {before + 1} names the columns, and no fact follows: write a fact a line.")
    return rows


def _header(text: str) -> tuple[int, str]:
    """How many lines precede the header, and the header itself. "sep=;", which spreadsheets write
    and read, is not one."""
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
    """The names in the first row, which is on this line."""
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
    """Of a cell that is not empty."""
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
    """Each a list of two, or an object with prompt and answer."""
    return isinstance(value, list) and all(
        {*item} == {"prompt", "answer"} if isinstance(item, dict) else isinstance(item, list) and len(item) == 2
        for item in value
    )
