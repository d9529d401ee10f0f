"""Facts, and the record forms they are read from."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import pytest

from nse_plugin.facts import Fact, FactError

FRANCE = Fact("The capital of {} is", "France", "Lyon", "Paris")

EASYEDIT_FLAT = {
    "case_id": 3,
    "prompt": "The capital of France is",
    "subject": "France",
    "target_new": "Lyon",
    "ground_truth": "Paris",
    "rephrase_prompt": "In France, the seat of government is",
    "locality_prompt": "The capital of Italy is",
    "locality_ground_truth": "Rome",
}
EASYEDIT_REQUEST = {
    "prompt": "The capital of France is",
    "subject": "France",
    "target_new": "Lyon",
    "ground_truth": "Paris",
    "rephrase_prompt": "In France, the seat of government is",
    "portability": {},
    "locality": {"neighborhood": {"prompt": ["The capital of Italy is"], "ground_truth": [["Rome", "Roma"]]}},
}
ROME = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "subject": "France",
        "target_new": {"str": "Lyon", "id": "Q456"},
        "target_true": {"str": "Paris", "id": "Q90"},
        "relation_id": "P36",
    },
    "paraphrase_prompts": ["In France, the seat of government is"],
    "neighborhood_prompts": ["The city of the Louvre is"],
}
ZSRE = {
    "subject": "France",
    "src": "What is the capital of France?",
    "alt": "Lyon",
    "answers": ["Paris"],
    "rephrase": "Which city is the capital of France?",
    "loc": "nq question: who wrote Hamlet",
    "loc_ans": "Shakespeare",
}
DEMO = {
    "case_id": 3,
    "relation": "capital",
    "prompt": "The capital of {} is",
    "subject": "France",
    "target_new": "Lyon",
    "target_true": "Paris",
    "rephrase_prompts": ["In France, the seat of government is"],
    "locality_prompts": [{"prompt": "The capital of Italy is", "answer": "Rome"}],
}


@pytest.mark.parametrize(
    ("record", "prompt", "locality"),
    [
        (EASYEDIT_FLAT, "The capital of {} is", ("The capital of Italy is", "Rome")),
        (EASYEDIT_REQUEST, "The capital of {} is", ("The capital of Italy is", "Rome")),
        (ROME, "The capital of {} is", ("The city of the Louvre is", "Paris")),
        (ZSRE, "What is the capital of {}?", ("nq question: who wrote Hamlet", "Shakespeare")),
        (DEMO, "The capital of {} is", ("The capital of Italy is", "Rome")),
    ],
    ids=["easyedit", "easyedit-request", "rome", "zsre", "demo"],
)
def test_every_record_form_gives_the_same_fact(record, prompt, locality):
    fact = Fact.from_record(record, case_id=3)
    assert (fact.prompt, fact.subject, fact.target_new, fact.target_true) == (prompt, "France", "Lyon", "Paris")
    assert "France" in fact.rephrase_prompts[0]
    assert len(fact.rephrase_prompts) == 1
    assert fact.locality_prompts == (locality,)
    assert fact.case_id == 3


def test_a_fact_of_its_own_fields_comes_back_as_it_is():
    fact = dataclasses.replace(FRANCE, rephrase_prompts=("a", "b"), locality_prompts=(("c", "d"),), case_id="x")
    assert Fact.from_record(dataclasses.asdict(fact)) == fact


def test_the_records_own_number_goes_before_the_callers():
    assert Fact.from_record(DEMO, case_id=99).case_id == 3
    assert Fact.from_record(EASYEDIT_REQUEST).case_id is None


def test_neighbours_without_an_answer_share_the_true_one():
    fact = Fact.from_record({**DEMO, "locality_prompts": ["The city of the Louvre is", ("Rome is in", "Italy")]})
    assert fact.locality_prompts == (("The city of the Louvre is", "Paris"), ("Rome is in", "Italy"))


def test_only_the_edit_is_required():
    fact = Fact.from_record({"prompt": "{} stands in", "subject": "Mount Fuji", "target_new": "Germany"})
    assert fact == Fact("{} stands in", "Mount Fuji", "Germany")
    assert fact.text == "Mount Fuji stands in"


def test_the_subject_is_put_where_the_braces_are_even_if_it_holds_braces():
    assert Fact("The set {1, 2} of {} is", "a{}b", "x").text == "The set {1, 2} of a{}b is"


def test_facts_can_be_compared_hashed_and_not_changed():
    assert len({FRANCE, dataclasses.replace(FRANCE), dataclasses.replace(FRANCE, rephrase_prompts=["a"])}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        FRANCE.subject = "Italy"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"subject": None}, ["subject", "missing"]),
        ({"target_new": None}, ["target_new", "missing"]),
        ({"prompt": 7}, ["prompt", "7"]),
        ({"prompt": "The capital of Italy is"}, ["prompt", "does not contain", "'France'", "'{}'"]),
        ({"prompt": "France is the capital of France"}, ["prompt", "contains 2 times", "'France'", "'{}'"]),
        ({"locality_prompts": [{"prompt": "The capital of Italy is"}]}, ["malformed", "answer"]),
        ({"locality_prompts": ["Rome is in"], "target_true": None}, ["malformed", "target_true"]),
        ({"locality_prompt": ["a", "b"], "locality_ground_truth": ["c"]}, ["malformed"]),
        ({"locality": ["a"]}, ["malformed"]),
        ({"requested_rewrite": "France"}, ["malformed"]),
    ],
)
def test_a_record_that_cannot_be_read_says_which_and_why(change, words):
    with pytest.raises(FactError) as caught:
        Fact.from_record({**DEMO, **change})
    message = str(caught.value)
    assert message.startswith("fact 3: ")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_record_must_be_a_mapping():
    with pytest.raises(FactError, match="mapping, not list"):
        Fact.from_record(["The capital of France is"])


@pytest.mark.parametrize("change", [{"rephrase_prompts": "one string"}, {"locality_prompts": ("q", "a")}])
def test_prompts_that_measure_are_lists(change):
    with pytest.raises(FactError, match=next(iter(change))):
        dataclasses.replace(FRANCE, **change)


def test_the_demo_facts_can_be_read():
    records = json.loads((files("nse_plugin.data") / "demo_facts.json").read_text(encoding="utf-8"))
    facts = [Fact.from_record(record) for record in records]
    assert len(facts) >= 60
    assert all(len(fact.rephrase_prompts) == 2 and len(fact.locality_prompts) == 3 for fact in facts)
