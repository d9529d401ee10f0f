"""Facts in tables, as spreadsheets write them."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest

from nse_plugin.facts import Fact
from nse_plugin.facts.files import DatasetError, load_facts


@pytest.mark.parametrize(
    "table",
    [
        "prompt,target_new\nThe capital of Japan is,Kyoto\n",
        "prompt,subject,target_new\nThe capital of Japan is,,Kyoto\n",
    ],
)
def test_a_table_needs_no_subjects(written, table):
    [fact] = load_facts(written(table, "facts.csv")).facts
    assert (fact.prompt, fact.subject) == ("The capital of {} is", "Japan")


CAPITAL = '"The capital of {} is"'


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_as_spreadsheets_write_it(written, delimiter, end, mark):
    lines = [
        ["prompt", "subject", "target_new", "target_true", "note"],
        [CAPITAL, "France", "Lyon", "Paris", "checked"],
        [CAPITAL, '"Korea, North; or South"', "Busan", "", ""],
        ["", "", "", "", ""],
        ['"{} said ""no"""', "Él", "ß", "s", ""],
    ]
    path = written(mark + end.join(map(delimiter.join, lines)) + end, "facts.csv")
    assert load_facts(path).facts == [
        Fact("The capital of {} is", "France", "Lyon", "Paris", case_id=0),
        Fact("The capital of {} is", "Korea, North; or South", "Busan", case_id=1),
        Fact('{} said "no"', "Él", "ß", "s", case_id=2, separator=" "),
    ]


def test_every_field_has_its_column(written):
    fact = Fact(
        "The capital of {} is", "France", "Lyon", "Paris", ("A", "B"), (("Rome is in", "Italy"),), 7, ("C",),
        ("D", "E"), (("F", "G"), ("H", "I")), (("J", "K"),),
    )  # fmt: skip
    fields = dataclasses.asdict(fact)
    buffer = io.StringIO()
    table = csv.writer(buffer)
    table.writerow(fields)
    table.writerow(json.dumps(value) if isinstance(value, tuple) else value for value in fields.values())
    assert load_facts(written(buffer.getvalue(), "facts.csv")).facts == [fact]


def test_one_text_needs_no_list_and_pairs_may_have_names(written):
    header = "prompt,subject,target_new,rephrase_prompts,generation_prompts,locality_prompts,case_id"
    pairs = '"[{""prompt"": ""Rome is in"", ""answer"": ""Italy""}]"'
    [fact] = load_facts(written(f"{header}\n{CAPITAL},France,Lyon,France's is,It is,{pairs},a-1", "facts.TSV")).facts
    assert fact.rephrase_prompts == ("France's is",)
    assert fact.locality_prompts == (("Rome is in", "Italy"),)
    assert fact.case_id == "a-1"


@pytest.mark.parametrize(
    "before", ["", "\n\n", "sep=;\n", "Sep=;\r\n"], ids=["nothing", "blank lines", "sep", "sep on Windows"]
)
def test_lines_before_the_header_and_spaces_round_cells_play_no_part(written, before):
    path = written(f"{before} prompt ; subject ;target_new\n  The capital of {{}} is ; Japan ; Kyoto \n", "a.csv")
    [fact] = load_facts(path)
    assert (fact.prompt, fact.subject, fact.target_new) == ("The capital of {} is ", "Japan", "Kyoto")
    path = written(f"{before}prompt,subject,target_new\n{{}} is,Japan\n".replace(",", ";"), "a.csv")
    with pytest.raises(DatasetError, match=rf"line {before.count(chr(10)) + 2}: column target_new is empty"):
        load_facts(path)


def test_a_cell_of_any_length_is_read(written):
    limit = csv.field_size_limit()
    long = "x" * 200_000
    [fact] = load_facts(written(f'prompt,subject,target_new,rephrase_prompts\n{{}} is,A,B,"{long}"\n', "a.csv"))
    assert fact.rephrase_prompts == (long,)
    assert csv.field_size_limit() == limit


def test_the_columns_of_easyedits_records_are_read_too(written):
    header = "prompt,subject,target_new,ground_truth,rephrase_prompt,locality_prompt,locality_ground_truth"
    row = "The capital of France is,France,Lyon,Paris,France's is,Rome is in,Italy"
    [fact] = load_facts(written(f"{header}\n{row}\n", "facts.csv")).facts
    assert fact == Fact(
        "The capital of {} is", "France", "Lyon", "Paris", ("France's is",), (("Rome is in", "Italy"),), case_id=0
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("subject,target_new\nFrance,Lyon", r"a.csv, line 1 names no column 'prompt'"),
        ("prompt,subject,taget_new\n{} is,A,B", r"a.csv, line 1, column 'taget_new': .* did you mean 'target_new'\?"),
        ("prompt,Subject,target_new\n{} is,A,B", r"line 1, column 'Subject': .* did you mean 'subject'\?"),
        ("prompt,subject,target_new,rephrase prompts\n", r"'rephrase prompts': .* did you mean 'rephrase_prompts'\?"),
        ("prompt,subject,target_new,subject\n{} is,A,B,C", r"line 1 names the column 'subject' twice"),
        ("prompt,subject,target_new\n", r"line 1 names the columns, and no fact follows"),
        ("prompt,subject,target_new\n{} is,A,B\n{} is,C,\n", r"line 3: column target_new is empty: a fact needs"),
        ('prompt,subject,target_new\n"{}\nis",A,B\n\n{} is,C\n', r"line 5: column target_new is empty"),
        ("prompt,subject,target_new\n{} is, or was,A,B\n", r"line 2: the row has 4 cells for 3 columns: put a text"),
        ('prompt,subject,target_new\n{} is,A,B\n"{} is,C,D\n', r"line 3: the row is not CSV \(unexpected end"),
        ('prompt,subject,target_new\n{} is,A,"B"s\n', r"line 2: the row is not CSV \(',' expected after '\"'\)"),
        ('"prompt"s,subject,target_new\n{} is,A,B\n', r"a.csv, line 1 is not CSV \(',' expected after '\"'\)"),
        ("prompt,subject,target_new\nParisian is,Paris,B\n", r"line 2: prompt 'Parisian is' has the subject 'Paris'"),
    ],
)  # fmt: skip
def test_a_bad_table_is_named_by_line_and_column(written, content, words):
    with pytest.raises(DatasetError, match=words):
        load_facts(written(content, "a.csv"))


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("rephrase_prompts", '["a", "b"', r"write one text, or a JSON list of texts, \[\"one\", \"two\"\]\."),
        ("rephrase_prompts", '["a", 3]', r"holds 3: give non-empty strings only\."),
        ("locality_prompts", "Rome is in", r"write its pairs as JSON, \[\[\"prompt\", \"answer\"\], \.\.\.\]\."),
        ("locality_prompts", '["Rome is in", "Italy"]', r"write its pairs as JSON"),
        ("portability_prompts", '[["a", "b", "c"]]', r"write its pairs as JSON"),
        ("reversal_prompts", '{"prompt": "a"}', r"write its pairs as JSON"),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column(written, column, cell, words):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["prompt", "subject", "target_new", column], ["{} is", "A", "B", cell]])
    with pytest.raises(DatasetError, match=rf"a.csv, line 2: (column )?{column}.* {words}"):
        load_facts(written(buffer.getvalue(), "a.csv"))


def test_bad_rows_can_be_left_out_like_bad_records(written, caplog):
    path = written("prompt,subject,target_new\n{} is,A,\n{} is,B,C\n{} is,B,C\n", "a.csv")
    loaded = load_facts(path, skip_bad=True)
    assert [fact.subject for fact in loaded.facts] == ["B"]
    assert loaded.skipped == [
        (0, "column target_new is empty: a fact needs prompt and target_new."),
        (2, "it is the fact of line 3 again, 'B is' to 'C'."),
    ]
    assert "2 bad records left out, the first of them line 2: column target_new is empty" in caplog.text


def test_rows_after_one_that_is_no_row_are_read(written):
    rows = ["{} is,A,B", "{} is,C, or D,E", '{} is,"F"s,G', '"{}', 'is",H', "{} is,I,J", '{} is,"K,L']
    loaded = load_facts(written("\n".join(["prompt,subject,target_new", *rows, ""]), "a.csv"), skip_bad=True)
    assert [fact.subject for fact in loaded.facts] == ["A", "I"]
    words = ["has 4 cells for 3 columns", "is not CSV (',' expected", "target_new is empty", "(unexpected end of data)"]
    assert [index for index, _ in loaded.skipped] == [1, 2, 3, 5]
    assert all(word in problem for word, (_, problem) in zip(words, loaded.skipped, strict=True))


def test_a_table_in_another_encoding_says_how_a_spreadsheet_calls_it(tmp_path):
    (tmp_path / "a.csv").write_bytes("prompt,subject,target_new\n{} ist,Köln,B\n".encode("cp1252"))
    with pytest.raises(
        DatasetError, match=r"a.csv is not a UTF-8 text \(.*\): save it as UTF-8 \(in a .*: CSV UTF-8\)"
    ):
        load_facts(tmp_path / "a.csv")
