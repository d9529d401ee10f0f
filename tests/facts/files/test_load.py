"""Facts from files, and from benchmarks downloaded from a server of the test's own."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import http.server
import io
import json
import logging
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from nse_plugin.facts import Fact
from nse_plugin.facts.files import PUBLISHED, DatasetError, load_facts, published
from nse_plugin.facts.files.published import Published

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def rome(case_id, subject, relation="P36", target="Q456"):
    return {
        "case_id": case_id,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "relation_id": relation,
            "target_new": {"str": "Lyon", "id": target},
            "target_true": {"str": "Paris", "id": "Q90"},
            "subject": subject,
        },
        "paraphrase_prompts": [f"{subject} is governed from"],
        "neighborhood_prompts": ["The city of the Louvre is"],
        "generation_prompts": [f"{subject}'s largest city is"],
    }


RECORDS = [rome(70, "France"), rome(71, "Peru"), rome(72, "Japan")]
NO_SUBJECT = {"src": "Who wrote it?", "alt": "Ada", "answers": ["Ben"]}
OTHER_SUBJECT = {"prompt": "The capital of France is", "subject": "Peru", "target_new": "Lyon"}


@pytest.fixture
def written(tmp_path):
    """A function: writes records (or a text as it is) into a file of the given name, and returns its path."""

    def write(content, name="facts.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


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


# --- bad files


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "a.json", r"a.json is empty: give a file with at least one record\."),
        (" \n", "a.jsonl", r"a.jsonl is empty: give a file with at least one record\."),
        ("[]", "a.json", r"a.json holds an empty list: give a file with at least one record\."),
        ('{"facts": []}', "a.json", r"a.json holds a JSON dict, not a list of records: put them in a list\."),
        ('[{"a": 1},\n {"b" 2}]', "a.json", r"not valid JSON at line 2, column 7 \(Expecting ':' delimiter\): correct"),
        ('{"a": 1}\n{"b": 2}', "a.json", r"line 2, column 1 \(Extra data\).*must be named \.jsonl"),
        ('{"a": 1}\n\n{"b" 2}', "a.jsonl", r"a.jsonl is not valid JSON at line 3, column 6"),
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


def test_too_few_facts_says_how_many_there_are(written):
    with pytest.raises(DatasetError, match=r"facts.json has 3 facts, and 4 are asked for: take 3 or fewer, or all\."):
        load_facts(written(RECORDS), limit=4)
    with pytest.raises(DatasetError, match=r"has 3 facts besides 1 bad record, and 4 are asked for: take 3"):
        load_facts(written([NO_SUBJECT, *RECORDS]), limit=4, skip_bad=True)
    with pytest.raises(DatasetError, match=r"limit is 0: ask for at least one fact, or give None for all\."):
        load_facts(written(RECORDS), limit=0)


# --- reference texts

SNIPPETS = [
    {"relation_id": "P36", "target_id": "Q456", "samples": [{"name": "a", "text": "A"}, {"name": "b", "text": "B"}]},
    {"relation_id": "P36", "target_id": "Q1", "samples": [{"name": "c", "text": "C"}]},
    {"relation_id": "P17", "target_id": "Q456", "samples": [{"name": "d", "text": "D"}]},
    {"relation_id": "P36", "target_id": "Q456", "samples": [{"name": "e", "text": ""}, {"name": "f", "text": "F"}]},
]


def test_snippets_go_to_the_facts_of_their_relation_and_new_target(written):
    own = {"case_id": 4, "prompt": "{} is in", "subject": "Rome", "target_new": "Peru", "reference_texts": ["its own"]}
    plain = {"case_id": 5, "prompt": "{} is in", "subject": "Oslo", "target_new": "Peru"}
    records = [rome(1, "France"), rome(2, "Peru", target="Q1"), rome(3, "Japan", target="Q2"), own, plain]
    path, snippets = written(records), written(SNIPPETS, "snippets.json")
    facts = load_facts(path, snippets=snippets).facts
    assert [fact.reference_texts for fact in facts] == [("A", "B", "F"), ("C",), (), ("its own",), ()]
    assert [fact.reference_texts for fact in load_facts(path).facts] == [(), (), (), ("its own",), ()]


def test_snippets_for_none_of_the_facts_are_told(written, caplog):
    load_facts(written([rome(1, "France", relation="P1")]), snippets=written(SNIPPETS, "snippets.json"))
    assert "snippets.json has no texts for any of the facts" in caplog.text


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"relation_id": "P36", "samples": []}, r"KeyError 'target_id'"),
        ({"relation_id": "P36", "target_id": "Q1", "samples": [{"text": None}]}, r"AttributeError"),
        (["P36"], r"TypeError"),
    ],
)
def test_malformed_snippets_are_named_by_their_place(written, entry, words):
    snippets = written([*SNIPPETS, entry], "snippets.json")
    with pytest.raises(DatasetError, match=rf"snippets.json, entry 4 \(counted from 0\): {words}.*: each needs"):
        load_facts(written(RECORDS), snippets=snippets)


# --- downloads


class _Server:
    """Sends `body`, of which it announces `length` bytes, and counts how often it was asked."""

    body = json.dumps(RECORDS).encode()
    length: int | None = None
    asked = 0


@pytest.fixture
def server(monkeypatch):
    """The known benchmarks, served from here: `counterfact` with the hash of RECORDS, `zsre` without one."""
    state = _Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(state.body) if state.length is None else state.length))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        root = f"http://127.0.0.1:{serving.server_port}/dsets"
        sha256 = hashlib.sha256(_Server.body).hexdigest()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setitem(PUBLISHED, "counterfact", Published(f"{root}/counterfact.json", sha256))
        monkeypatch.setitem(PUBLISHED, "zsre", Published(f"{root}/zsre_mend_eval.json", None))
        yield state
        serving.shutdown()


def kept(tmp_path):
    """Names of all files in the cache."""
    return sorted(path.name for path in (tmp_path / "nse-home").rglob("*") if path.is_file())


def test_what_is_published_is_known():
    assert PUBLISHED["counterfact"].url == "https://rome.baulab.info/data/dsets/counterfact.json"
    assert PUBLISHED["counterfact"].sha256 == "d017056125178a13728594e66a801357a8db9ed7973a7425554bb4271de9fc6f"
    assert PUBLISHED["zsre"].url == "https://rome.baulab.info/data/dsets/zsre_mend_eval.json"


@pytest.mark.parametrize(("name", "file"), [("counterfact", "counterfact.json"), ("zsre", "zsre_mend_eval.json")])
def test_a_benchmark_is_downloaded_once(server, tmp_path, monkeypatch, name, file):
    monkeypatch.setattr(published, "_CHUNK", 100)
    loaded = load_facts(name)
    assert loaded.facts == [Fact.from_record(record) for record in RECORDS]
    assert loaded.path == tmp_path / "nse-home" / "data" / file
    assert loaded.sha256 == hashlib.sha256(server.body).hexdigest()
    assert load_facts(name) == loaded
    assert server.asked == 1
    assert kept(tmp_path) == [file]


def test_a_file_put_there_by_hand_is_not_downloaded(server, tmp_path):
    file = PUBLISHED["counterfact"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(server.body)
    assert len(load_facts("counterfact").facts) == 3
    assert server.asked == 0


def test_a_kept_file_that_was_changed_is_refused_but_left(server, tmp_path):
    file = PUBLISHED["counterfact"].file
    file.parent.mkdir(parents=True)
    file.write_text("[]")
    published = PUBLISHED["counterfact"].sha256
    with pytest.raises(DatasetError, match=rf"has the SHA-256 4f53.*as published has {published}: delete the file"):
        load_facts("counterfact")
    assert kept(tmp_path) == ["counterfact.json"]


def test_another_hash_than_the_published_one_leaves_no_file(server, tmp_path):
    server.body = json.dumps(RECORDS[:2]).encode()
    sent, published = hashlib.sha256(server.body).hexdigest(), PUBLISHED["counterfact"].sha256
    with pytest.raises(DatasetError) as caught:
        load_facts("counterfact")
    assert f"(what came has the SHA-256 {sent}, and the published file has {published})" in str(caught.value)
    assert f"put the file at {tmp_path / 'nse-home' / 'data' / 'counterfact.json'} by hand" in str(caught.value)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_a_broken_connection_leaves_no_file(server, tmp_path, name):
    server.length = len(server.body) + 10
    with pytest.raises(DatasetError, match=rf"the connection broke after {len(server.body)} of {server.length} bytes"):
        load_facts(name)
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("interruption", "error"), [(KeyboardInterrupt(), KeyboardInterrupt), (TimeoutError("timed out"), DatasetError)]
)
def test_an_interrupt_leaves_no_file(server, tmp_path, monkeypatch, interruption, error):
    @contextmanager
    def interrupted(*_):
        def advance(count):
            assert 0 < count < len(server.body)
            assert len(kept(tmp_path)) == 1  # under a name of its own
            raise interruption

        yield advance

    monkeypatch.setattr(published, "_CHUNK", 100)
    monkeypatch.setattr(published, "bar", interrupted)
    with pytest.raises(error):
        load_facts("counterfact")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("body", [b"", b"<html>Please log in.</html>", b'{"error": "moved"}'])
def test_what_is_no_list_of_records_is_not_kept(server, tmp_path, body):
    server.body = body
    with pytest.raises(DatasetError, match=r"zsre cannot be downloaded from http.*\(what came is no list of records\)"):
        load_facts("zsre")
    assert kept(tmp_path) == []


def test_offline_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(PUBLISHED, "counterfact", Published("http://127.0.0.1:9/counterfact.json", "0" * 64))
    with pytest.raises(DatasetError) as caught:
        load_facts("counterfact")
    message = str(caught.value)
    assert message.startswith("counterfact cannot be downloaded from http://127.0.0.1:9/counterfact.json (")
    file = tmp_path / "nse-home" / "data" / "counterfact.json"
    assert message.endswith(f"): try again when online, or put the file at {file} by hand.")
    assert kept(tmp_path) == []


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


# --- tables


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "nests too many lists from line 1 on"),
        ('[{"case_id": ' + "9" * 5_000 + "}]", "cannot be read from line 1 on .*digits"),
        ('[{"prompt": "{} is", "subject": "A\\ud800", "target_new": "B"}]', "record 0 .*subject is 'A.ud800'"),
        ('[{"prompt": "{} is", "subject": "A", "target_new": "B", "rephrase_prompts": ["\\udc00"]}]',
         "rephrase_prompts holds"),
    ],
    ids=["nested", "digits", "half a character", "half a character in a list"],
)  # fmt: skip
def test_json_that_python_cannot_take_is_named(written, content, words):
    with pytest.raises(DatasetError, match=words):
        load_facts(written(content))


def test_another_target_for_the_same_prompt_is_told(written, caplog):
    rows = "{} is,A,B\n{} is,C,D\n{} is ,A,E\n{} is,A,E \n"
    loaded = load_facts(written(f"prompt,subject,target_new\n{rows}", "a.csv"))
    assert len(loaded) == 4
    assert [fact.target_new for fact in loaded] == ["B", "D", "E", "E"]
    assert "line 4: 'A is ' is 'E' here and 'B' in line 2 (and 1 more): no round takes both" in caplog.text


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
        ("prompt,subject,target_new\n{} is, or was,A,B\n", r"line 2 has 4 cells for 3 columns: put a text in quotes"),
        ('prompt,subject,target_new\n{} is,A,B\n"{} is,C,D\n', r"line 3 is not CSV \(unexpected end of data\)"),
        ('prompt,subject,target_new\n{} is,A,"B"s\n', r"line 2 is not CSV \(',' expected after '\"'\)"),
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


def test_a_table_in_another_encoding_says_how_a_spreadsheet_calls_it(tmp_path):
    (tmp_path / "a.csv").write_bytes("prompt,subject,target_new\n{} ist,Köln,B\n".encode("cp1252"))
    with pytest.raises(
        DatasetError, match=r"a.csv is not a UTF-8 text \(.*\): save it as UTF-8 \(in a .*: CSV UTF-8\)"
    ):
        load_facts(tmp_path / "a.csv")


# --- places and duplicates


def test_a_bad_line_is_counted_as_an_editor_does(written):
    good = {"prompt": "{} is in", "subject": "Rome", "target_new": "Peru"}
    lines = [json.dumps(record) for record in (good, {**good, "subject": None})]
    with pytest.raises(DatasetError) as caught:
        load_facts(written("\n\n".join(lines), "facts.jsonl"))
    assert "facts.jsonl, line 3: subject is missing, and " in str(caught.value)
    assert "named .jsonl" not in str(caught.value)
    with pytest.raises(
        DatasetError, match=r"not valid JSON at line 2, column 1 \(Expecting value\): correct it there\.$"
    ):
        load_facts(written(f"{lines[0]}\nnone\n", "facts.jsonl"))


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
