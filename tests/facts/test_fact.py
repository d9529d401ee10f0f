"""Facts, and the record forms that they are read from."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files

import pytest
from hypothesis import given, settings
from record_forms import FACTS, FRANCE

from nse_plugin.facts import Fact, FactError


def test_a_separator_is_a_string():
    for wrong in (1, ["\n"], "\ud800"):
        with pytest.raises(FactError, match="fact 3: separator is .*: give a string, '' for none, or None"):
            Fact("{} is", "Rome", "Peru", case_id=3, separator=wrong)


@settings(deadline=None)
@given(FACTS)
def test_a_fact_of_its_own_fields_comes_back_as_it_is(fact):
    fields = dataclasses.asdict(fact)
    assert Fact.from_record(fields) == fact
    assert Fact.from_record(json.loads(json.dumps(fields))) == fact


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


def test_a_fact_without_a_subject_has_one_from_then_on(caplog):
    caplog.set_level("INFO", "nse_plugin.facts")
    fact = Fact("The capital of France is", None, "Lyon", "Paris")
    assert fact == FRANCE
    assert caplog.messages == ["the subject of 'The capital of France is' is found to be 'France'."]
    caplog.clear()
    assert dataclasses.replace(fact, subject="Italy").text == "The capital of Italy is"
    assert Fact.from_record(dataclasses.asdict(fact)) == fact
    with pytest.raises(FactError, match="fact 3: subject is missing, and prompt 'Who wrote it.' does not tell"):
        Fact("Who wrote it?", None, "Ada", case_id=3)
    with pytest.raises(FactError, match="subject is missing, and prompt 'Where is {}.' has '{}' in its place: give"):
        Fact("Where is {}?", None, "Peru")
    with pytest.raises(FactError, match="subject is ''"):
        Fact("The capital of France is", "", "Lyon")
    assert caplog.messages == []


def test_a_name_counts_once():
    fact = dataclasses.replace(FRANCE, aliases=("La France", " France", "Frankreich ", "La France ", "Frankreich"))
    assert fact.names == ("France", "La France", "Frankreich ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rephrase_prompts": "one string"}, "rephrase_prompts is 'one string': give a list of strings."),
        ({"generation_prompts": 7}, "generation_prompts is 7: give a list of strings."),
        ({"generation_prompts": ["a", None]}, "generation_prompts holds None: give non-empty strings only."),
        ({"reference_texts": ["a", " "]}, "reference_texts holds ' ': give non-empty strings only."),
        ({"locality_prompts": ("q", "a")}, "locality_prompts is .*: give .prompt, true answer. pairs"),
        ({"locality_prompts": ["ab"]}, "locality_prompts is .*: give .prompt, true answer. pairs"),
        ({"locality_prompts": [("q", None)]}, "locality_prompts is .*: give .prompt, true answer. pairs"),
        ({"locality_prompts": 7}, "locality_prompts is 7: give .prompt, true answer. pairs"),
        ({"portability_prompts": [("q", "")]}, "portability_prompts is .*: give .prompt, true answer. pairs"),
        ({"reversal_prompts": "ab"}, "reversal_prompts is 'ab': give .prompt, true answer. pairs"),
        ({"target_true": " "}, "target_true is ' ': give a non-empty string, or None."),
        ({"case_id": [1]}, r"case_id is \[1\]: give an integer or a string."),
    ],
)
def test_what_measures_is_checked_too(change, words):
    with pytest.raises(FactError, match=words):
        dataclasses.replace(FRANCE, **change)


def test_lists_become_tuples():
    fact = dataclasses.replace(FRANCE, generation_prompts=["a"], reference_texts=(text for text in "bc"))
    assert (fact.generation_prompts, fact.reference_texts) == (("a",), ("b", "c"))
    assert hash(fact) != hash(FRANCE)


@pytest.mark.parametrize(
    ("record", "needed"),
    [
        ({"prompt": "{} is", "subject": "A"}, "a prompt and a target_new."),
        ({"requested_rewrite": {"prompt": "{} is", "subject": "A"}}, "a prompt and a target_new."),
        ({"src": "A is", "subject": "A"}, "a prompt (in MEND's form src) and a target_new (alt)."),
        ({"src": "A is", "subject": "A", "alt": None}, "a prompt (in MEND's form src) and a target_new (alt)."),
    ],
)
def test_the_names_of_mends_fields_are_given_for_its_records_only(record, needed):
    with pytest.raises(FactError) as caught:
        Fact.from_record(record)
    assert str(caught.value).endswith(f" is missing: a record needs {needed}")


def test_the_demo_facts_can_be_read():
    records = json.loads((files("nse_plugin.data") / "demo_facts.json").read_text(encoding="utf-8"))
    facts = [Fact.from_record(record) for record in records]
    assert len(facts) >= 60
    assert all(len(fact.rephrase_prompts) == 2 and len(fact.locality_prompts) == 3 for fact in facts)
