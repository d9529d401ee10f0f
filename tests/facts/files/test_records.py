"""Files of records: what is not a record, and the position of a mistake in the file."""

from __future__ import annotations

import json

import pytest

from nse_plugin.facts.files import DatasetError, load_facts


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "a.json", r"a.json is empty: give a file with at least one record\."),
        (" \n", "a.jsonl", r"a.jsonl is empty: give a file with at least one record\."),
        ("[]", "a.json", r"a.json holds an empty list: give a file with at least one record\."),
        ('{"facts": []}', "a.json", r"a.json holds a JSON dict, not a list of records: put them in a list\."),
        ('[{"a": 1},\n {"b" 2}]', "a.json", r"not valid JSON at line 2, column 7 \(Expecting ':' delimiter\): correct"),
        ('{"a": 1}\n{"b": 2}', "a.json", r"line 2, column 1 \(Extra data\).*must be named \.jsonl"),
        ('\n\n{"b" 2}', "a.jsonl", r"a.jsonl, line 3: the line is not valid JSON at column 6"),
        ("[]", "a.xlsx", r"data source '.*a.xlsx' cannot be used: give a .csv, .json or .jsonl file, or one of demo"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(written, content, name, words):
    with pytest.raises(DatasetError, match=words):
        load_facts(written(content, name))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"none.json cannot be read \(No such file or directory\): give a file that"):
        load_facts(tmp_path / "none.json")
    with pytest.raises(DatasetError, match=r"'counterfakt' cannot be used: .*one of demo, same_subject, .*, zsre\."):
        load_facts("counterfakt")


def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"a.json is not a UTF-8 text \(.*\): save it as UTF-8\."):
        load_facts(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "facts.json nests too many lists: give plain records"),
        ('[{"case_id": ' + "9" * 5_000 + "}]", "facts.json cannot be read .*digits"),
        ('[{"prompt": "{} is", "subject": "A\\ud800", "target_new": "B"}]', "record 0 .*subject is 'A.ud800'"),
        ('[{"prompt": "{} is", "subject": "A", "target_new": "B", "rephrase_prompts": ["\\udc00"]}]',
         "rephrase_prompts holds"),
    ],
    ids=["nested", "digits", "half a character", "half a character in a list"],
)  # fmt: skip
def test_json_that_python_cannot_take_is_named(written, content, words):
    with pytest.raises(DatasetError, match=words):
        load_facts(written(content))


def test_a_bad_line_is_counted_as_an_editor_does(written):
    good = {"prompt": "{} is in", "subject": "Rome", "target_new": "Peru"}
    lines = [json.dumps(record) for record in (good, {**good, "subject": None})]
    with pytest.raises(DatasetError) as caught:
        load_facts(written("\n\n".join(lines), "facts.jsonl"))
    assert "facts.jsonl, line 3: subject is missing, and " in str(caught.value)
    assert "named .jsonl" not in str(caught.value)
    with pytest.raises(DatasetError, match=r"line 2: the line is not valid JSON at column 1 \(Expecting value\)"):
        load_facts(written(f"{lines[0]}\nnone\n", "facts.jsonl"))


def test_a_line_that_is_not_json_is_a_bad_record_like_others(written):
    """The first one in the order of the lines is named, whatever is wrong with it."""
    good = {"prompt": "{} is in", "subject": "Rome", "target_new": "Peru"}
    lines = [json.dumps(good), json.dumps({**good, "target_new": None}), "none", "[" * 100_000]
    lines += [json.dumps({**good, "subject": "Lima"})]
    path = written("\n".join(lines), "facts.jsonl")
    with pytest.raises(DatasetError, match=r"facts.jsonl, line 2: target_new is missing"):
        load_facts(path)
    loaded = load_facts(path, skip_bad=True)
    assert [fact.subject for fact in loaded.facts] == ["Rome", "Lima"]
    assert [index for index, _ in loaded.skipped] == [1, 2, 3]
    assert [problem.split(":")[0] for _, problem in loaded.skipped[1:]] == [
        "the line is not valid JSON at column 1 (Expecting value)", "the line nests too many lists",
    ]  # fmt: skip
