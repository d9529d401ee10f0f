"""ROME's text snippets, and the facts that they belong to."""

from __future__ import annotations

import pytest
from rome_records import RECORDS, rome

from nse_plugin.facts.files import DatasetError, load_facts

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


def test_a_line_of_snippets_that_is_not_json(written):
    with pytest.raises(DatasetError, match=r"snippets.jsonl, line 1: the line is not valid JSON at column 1"):
        load_facts(written(RECORDS), snippets=written("none", "snippets.jsonl"))


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
