"""`nse facts`: every bad record with its line, conflicts, and the table of fields."""

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


def test_what_is_wrong_with_a_file(tmp_path, capsys, caplog):
    path = tmp_path / "facts.jsonl"
    path.write_text(LINES + "none\n")
    assert main(["facts", "check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["facts"] == 3
    assert [problem["place"] for problem in found["problems"]] == ["line 2", "line 5"]
    assert "target_new" in found["problems"][0]["problem"]
    assert "not valid JSON" in found["problems"][1]["problem"]
    assert [conflict["place"] for conflict in found["conflicts"]] == ["line 3", "line 4"]
    assert "the fact of line 1 again" in found["conflicts"][0]["conflict"]
    assert found["having"]["target_true"] == 1
    assert found["largest_round"] == 1
    assert main(["facts", "check", str(path)]) == 1
    said, errors = capsys.readouterr()
    for words in ("line 2", "line 5", "'Osaka' here and 'Kyoto' in line 3", "3 facts", "2 bad records"):
        assert said.count(words) == 1
    assert (errors, caplog.messages) == ("", [])


def test_two_targets_for_one_question_need_two_rounds(tmp_path, capsys):
    first, _, other, last = LINES.splitlines()
    (tmp_path / "facts.jsonl").write_text("\n".join([first, other.replace("Japan", "Italy"), last]))
    assert main(["facts", "check", str(tmp_path / "facts.jsonl")]) == 1
    said = capsys.readouterr().out
    assert "line 3   'The capital of Japan is' is 'Osaka' here and 'Kyoto' in line 1" in said
    assert "One round cannot take two facts with one prompt and subject" in said
    assert "--round 2 or less, so that the later one corrects the earlier one." in said


def test_a_good_one(capsys):
    assert main(["facts", "check", "demo"]) == 0
    assert "60 facts" in capsys.readouterr().out


def test_a_file_that_holds_no_fact(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{}")
    assert main(["facts", "check", str(tmp_path / "x.json")]) == 1
    assert "not a list of records" in capsys.readouterr().err
    assert main(["facts", "check", str(tmp_path / "x.json"), "--json"]) == 1
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["place"] == str(tmp_path / "x.json")
    assert "not a list of records" in problem["problem"]
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


@pytest.mark.parametrize("arguments", [[], ["check"], ["--json"]])
def test_nothing_to_do(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["facts", *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: nse facts ")
    assert said.endswith("nse facts: error: give `check FILE`, or --example.\n")


@pytest.mark.parametrize(("name", "code"), [("demo", 0), ("same_subject", 1)])
def test_known_names(name, code):
    """The second one has corrections on purpose."""
    assert main(["facts", "check", name]) == code
