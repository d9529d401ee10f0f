"""`nse facts`: every bad record with its line, corrections, and the table of fields."""

from __future__ import annotations

import json

import pytest

from nse_plugin.cli import main
from nse_plugin.facts import Fact
from nse_plugin.facts.fields import FIELDS
from nse_plugin.facts.files import load_facts

LINES = """\
{"prompt": "The capital of {} is", "subject": "Japan", "target_new": "Kyoto", "target_true": "Tokyo"}
{"prompt": "The capital of {} is", "subject": "Japan"}
{"prompt": "The capital of {} is", "subject": "Japan", "target_new": "Kyoto"}
{"prompt": "The capital of {} is", "subject": "Japan", "target_new": "Osaka"}
"""


def test_what_is_wrong_with_a_file(tmp_path, capsys):
    path = tmp_path / "facts.jsonl"
    path.write_text(LINES)
    assert main(["facts", "check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["facts"] == 2
    assert [problem["place"] for problem in found["problems"]] == ["line 2", "line 3"]
    assert "target_new" in found["problems"][0]["problem"]
    assert "the fact of line 1 again" in found["problems"][1]["problem"]
    assert found["having"]["target_true"] == 1
    assert len(found["corrections"]) == 1
    assert main(["facts", "check", str(path)]) == 1
    said = capsys.readouterr().out
    for words in ("line 2", "line 3", "'Osaka' here and 'Kyoto' in line 1", "2 facts", "2 bad records"):
        assert words in said


def test_a_good_one(capsys):
    assert main(["facts", "check", "demo"]) == 0
    assert "60 facts" in capsys.readouterr().out


def test_a_file_that_holds_no_fact(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert main(["facts", "check", str(tmp_path / "x.json")]) == 1
    assert "not a list of records" in capsys.readouterr().err
    assert main(["facts", "check", str(tmp_path / "nowhere.json")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_the_example_is_a_file_of_facts(tmp_path, capsys):
    assert main(["facts", "--example"]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("{")]
    (tmp_path / "example.jsonl").write_text("\n".join(lines))
    assert len(load_facts(tmp_path / "example.jsonl")) == 2
    assert all(field.name in said for field in FIELDS)


def test_every_field_is_in_the_table():
    assert [field.name for field in FIELDS] == sorted(
        Fact.__dataclass_fields__, key=[field.name for field in FIELDS].index
    )


def test_nothing_to_do(capsys):
    assert main(["facts"]) == 1
    assert "give `check FILE`, or --example" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo", "same_subject"])
def test_known_names(name):
    assert main(["facts", "check", name]) == 0
