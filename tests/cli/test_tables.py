"""The tables that the commands print."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nse_plugin.cli.tables import print_json, print_table, print_written, records, shown

ROWS = [{"name": "[b]Lyon[/b]", "p": 0.12345, "said": True, "round": 3}, {"name": "Rome", "p": float("nan")}]


def test_a_table_has_a_line_a_row_and_takes_no_markup(capsys):
    print_table(ROWS, {"name": "fact", "p": "P", "said": "said", "round": "round"}, title="Facts")
    title, headings, line, *rows = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert title == "Facts"
    assert headings.split() == ["fact", "P", "said", "round"]
    assert not line.strip("─ ")
    assert [row.split() for row in rows] == [["[b]Lyon[/b]", "0.123", "yes", "3"], ["Rome"]]
    assert rows[0].endswith("3")  # numbers stand on the right


@pytest.mark.parametrize(
    ("value", "cell"),
    [(None, ""), (float("nan"), ""), (True, "yes"), (False, "no"), (0.5, "0.500"), (12, "12"), ("a", "a")],
)
def test_cells(value, cell):
    assert shown(value) == cell


def test_json_is_plain(capsys):
    print_json({"p": float("nan"), 1: (np.float32(0.5), np.int64(2)), "é": [float("inf")]})
    said = capsys.readouterr().out
    assert json.loads(said) == {"p": None, "1": [0.5, 2], "é": [None]}
    assert "é" in said


def test_rows_of_a_frame():
    assert records(pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan]})) == [{"a": 1, "b": 0.5}, {"a": 2, "b": None}]


def test_what_was_written(tmp_path, capsys):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for name, size in (("a", 1000), ("inner/b", 234)):
        (tmp_path / "folder" / name).write_bytes(bytes(size))
    for path in (tmp_path / "folder", tmp_path / "folder" / "a"):
        print_written(path)
    assert capsys.readouterr().out == f"{tmp_path}/folder: 1,234 bytes\n{tmp_path}/folder/a: 1,000 bytes\n"
