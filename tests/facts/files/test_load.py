"""Facts from files: which are read, which are left out, and the messages about them."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest
from rome_records import RECORDS, rome

from nse_plugin.facts import Fact
from nse_plugin.facts.files import DatasetError, load_facts

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
NO_SUBJECT = {"src": "Who wrote it?", "alt": "Ada", "answers": ["Ben"]}
OTHER_SUBJECT = {"prompt": "The capital of France is", "subject": "Peru", "target_new": "Lyon"}


def test_a_list_of_records(written):
    path = written(RECORDS)
    loaded = load_facts(path)
    assert loaded.facts == [Fact.from_record(record) for record in RECORDS]
    assert [fact.subject for fact in loaded.facts] == ["France", "Peru", "Japan"]
    assert loaded.facts[0].generation_prompts == ("France's largest city is",)
    assert (loaded.path, loaded.skipped) == (path, [])
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_facts(str(path)) == loaded


def test_a_record_a_line(written):
    lines = [json.dumps(record, ensure_ascii=False) for record in (*RECORDS, rome(73, "A\u2028B"))]
    loaded = load_facts(written("\ufeff" + lines[0] + "\n\n" + "\r\n".join(lines[1:]) + "\n", "facts.jsonl"))
    assert [fact.subject for fact in loaded.facts] == ["France", "Peru", "Japan", "A\u2028B"]


def test_records_without_a_number_get_their_place(written):
    records = [{"prompt": "{} is in", "subject": subject, "target_new": "Rome"} for subject in ("a", "b")]
    assert [fact.case_id for fact in load_facts(written(records)).facts] == [0, 1]


def test_reading_stops_at_the_limit(written):
    path = written([*RECORDS, NO_SUBJECT])
    assert [fact.case_id for fact in load_facts(path, limit=2).facts] == [70, 71]
    assert len(load_facts(path, limit=3).facts) == 3  # the bad record behind them is not looked at


def test_the_demos_facts():
    loaded = load_facts("demo", limit=7)
    assert [fact.case_id for fact in loaded.facts] == list(range(1, 8))
    assert loaded.path.name == "demo_facts.json"
    assert len(load_facts("demo").facts) >= 60


# --- bad records


def test_a_bad_record_is_named_by_file_place_and_field(written):
    path = written([*RECORDS, NO_SUBJECT])
    with pytest.raises(DatasetError) as caught:
        load_facts(path)
    assert str(caught.value).startswith(f"{path}, record 3 (counted from 0): fact 3: subject is missing, and ")
    assert str(caught.value).endswith("skip_bad leaves such records out.")


def test_a_number_used_twice_is_named_with_both_places(written):
    with pytest.raises(DatasetError, match=r"record 2 .*: case_id '70' is that of record 0 too: give each its own\."):
        load_facts(written([*RECORDS[:2], rome("70", "Japan")]))


def test_bad_records_are_left_out_counted_and_logged(written, caplog):
    caplog.set_level(logging.INFO, "nse_plugin.facts.files")
    path = written([NO_SUBJECT, RECORDS[0], OTHER_SUBJECT, rome(70, "Chile"), ["a"], *RECORDS[1:]])
    loaded = load_facts(path, skip_bad=True)
    assert [fact.case_id for fact in loaded.facts] == [70, 71, 72]
    assert [index for index, _ in loaded.skipped] == [0, 2, 3, 4]
    words = ["subject is missing", "does not contain the subject 'Peru'", "record 1 too", "mapping, not list"]
    assert all(word in problem for word, (_, problem) in zip(words, loaded.skipped, strict=True))
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 4 + [logging.WARNING]
    assert "4 bad records left out, the first of them record 0: fact 0: subject is missing" in caplog.messages[-1]
    assert [fact.case_id for fact in load_facts(path, limit=2, skip_bad=True).facts] == [70, 71]


def test_a_single_bad_record_is_one(written, caplog):
    load_facts(written([NO_SUBJECT, RECORDS[0]]), skip_bad=True)
    assert "1 bad record left out, record 0: fact 0: subject is missing" in caplog.messages[-1]
    with pytest.raises(DatasetError, match=r"facts.json has 1 fact, and 4 are asked for"):
        load_facts(written(RECORDS[:1]), limit=4)


def test_a_file_of_bad_records_only(written):
    with pytest.raises(DatasetError, match=r"has no good record; the first, record 0: fact 0: subject is missing"):
        load_facts(written([NO_SUBJECT, NO_SUBJECT]), skip_bad=True)


def test_facts_without_a_subject_get_one_and_one_warning_says_so(written, caplog):
    caplog.set_level(logging.INFO, "nse_plugin")
    records = [
        {"prompt": "The capital of Japan is", "target_new": "Kyoto"},
        {"prompt": "{} is in", "subject": "Rome", "target_new": "Peru"},
        {"src": "Who wrote the play Hamlet?", "alt": "Ada", "rephrase": "Whose play is Hamlet?"},
    ]
    facts = load_facts(written(records)).facts
    assert [(fact.prompt, fact.subject) for fact in facts] == [
        ("The capital of {} is", "Japan"), ("{} is in", "Rome"), ("Who wrote the play {}?", "Hamlet"),
    ]  # fmt: skip
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert told == [
        "fact 0: the subject of 'The capital of Japan is' is found to be 'Japan'.",
        "fact 2: the subject of 'Who wrote the play Hamlet?' is found to be 'Hamlet'.",
    ]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "facts.json: 2 facts without a subject: " in warning
    assert "in 'The capital of Japan is' it is 'Japan'" in warning


def test_too_few_facts_says_how_many_there_are(written):
    with pytest.raises(DatasetError, match=r"facts.json has 3 facts, and 4 are asked for: take 3 or fewer, or all\."):
        load_facts(written(RECORDS), limit=4)
    with pytest.raises(DatasetError, match=r"has 3 facts besides 1 bad record, and 4 are asked for: take 3"):
        load_facts(written([NO_SUBJECT, *RECORDS]), limit=4, skip_bad=True)
    with pytest.raises(DatasetError, match=r"limit is 0: ask for at least one fact, or give None for all\."):
        load_facts(written(RECORDS), limit=0)


# --- the benchmarks themselves


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("file", "count", "prompts"),
    [
        ("counterfact-edit.json", 10_000, (1, 1, 0)),
        ("counterfact_500.json", 500, (2, 10, 10)),
        ("zsre_mend_eval_portability_gpt4.json", 1_037, (1, 1, 0)),
    ],
)
def test_real_files_are_read_to_the_last_record(file, count, prompts):
    loaded = load_facts(SHARED / file)
    assert len(loaded.facts) == count
    assert loaded.skipped == []
    for fact in loaded.facts:
        assert fact.target_true
        assert (len(fact.rephrase_prompts), len(fact.locality_prompts), len(fact.generation_prompts)) == prompts
    assert len({fact.case_id for fact in loaded.facts}) == count
    has_portability, has_reversal = "portability" in file, file == "counterfact_500.json"
    assert all(len(fact.portability_prompts) == has_portability for fact in loaded.facts)
    backwards = [fact for fact in loaded.facts if fact.reversal_prompts]
    assert len(backwards) == (394 if has_reversal else 0)
    for fact in backwards:
        [(prompt, answer)] = fact.reversal_prompts
        assert prompt.startswith(f"{fact.target_new} ")
        assert answer == fact.subject


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_a_real_file_that_edits_nothing_is_refused():
    with pytest.raises(DatasetError, match=r"known_1000.json, record 0 .*: target_new is missing"):
        load_facts(SHARED / "known_1000.json")


def test_the_first_facts_may_be_left_out(written):
    path = written(RECORDS)
    assert [fact.case_id for fact in load_facts(path, limit=1, skip=1).facts] == [71]
    assert [fact.case_id for fact in load_facts(path, skip=1).facts] == [71, 72]
    with pytest.raises(
        DatasetError, match=r"has 3 facts, and 2 are asked for after the first 2: take 1 or fewer, or all\."
    ):
        load_facts(path, limit=2, skip=2)
    with pytest.raises(DatasetError, match=r"some are asked for after the first 3: take 0 or fewer"):
        load_facts(path, skip=3)
    with pytest.raises(DatasetError, match=r"skip is -1: give the number of facts to leave out, 0 or more\."):
        load_facts(path, skip=-1)


def test_another_target_for_the_same_prompt_is_told(written, caplog):
    rows = "{} is,A,B\n{} is,C,D\n{} is ,A,E\n{} is,A,E \n"
    loaded = load_facts(written(f"prompt,subject,target_new\n{rows}", "a.csv"))
    assert len(loaded) == 4
    assert [fact.target_new for fact in loaded] == ["B", "D", "E", "E"]
    assert "line 4: 'A is ' is 'E' here and 'B' in line 2 (and 1 more): no round takes both" in caplog.text


# --- places and duplicates


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_fact_that_is_there_twice_is_named_with_both_places(written, caplog, name):
    fact = {"prompt": "{} is in", "subject": "Rome", "target_new": "Peru"}
    again = {"prompt": "Rome is in ", "subject": "Rome", "target_new": " Peru", "rephrase_prompt": "Rome lies in"}
    records = [fact, {**fact, "target_new": "Chile"}, again, again]
    path = written(records if name == "a.json" else "\n".join(map(json.dumps, records)), name)
    assert len(load_facts(path).facts) == 4  # as in published data
    first, third = ("record 0", "record 2") if name == "a.json" else ("line 1", "line 3")
    warning, other = caplog.messages
    assert "'Rome is in' is 'Chile' here and 'Peru' in" in other
    assert f"{name}, {third}: it is the fact of {first} again, 'Rome is in ' to ' Peru' (and 1 more)" in warning
    assert [fact.target_new for fact in load_facts(path, skip_bad=True).facts] == ["Peru", "Chile"]
