from __future__ import annotations

from collections import Counter

from nse_plugin.demo.run import demo_records
from nse_plugin.facts import Fact

RECORDS = demo_records()
FACTS = [Fact.from_record(record) for record in RECORDS]


def test_there_are_enough_of_them() -> None:
    relations = Counter(record["relation"] for record in RECORDS)
    assert len(FACTS) >= 60
    assert len(relations) >= 8
    assert min(relations.values()) >= 5
    assert [fact.case_id for fact in FACTS] == list(range(1, len(FACTS) + 1))


def test_a_round_mixes_relations() -> None:
    """Else the age of an edit would be its relation."""
    assert len({record["relation"] for record in RECORDS[:10]}) == 10


def test_each_fact_is_complete() -> None:
    for fact in FACTS:
        assert fact.target_true
        assert fact.target_true != fact.target_new
        assert len(fact.rephrase_prompts) == 2
        assert len(fact.locality_prompts) == 3


def test_neighbours_are_worded_in_several_ways_as_in_counterfact() -> None:
    for fact in FACTS:
        own = fact.prompt.split("{}")
        worded_alike = [q for q, _ in fact.locality_prompts if q.startswith(own[0]) and q.endswith(own[1])]
        assert len(worded_alike) <= 1


def test_subjects_are_unique_and_stand_once_in_each_prompt() -> None:
    assert len({fact.subject for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        for prompt in (fact.text, *fact.rephrase_prompts):
            assert prompt.count(fact.subject) == 1


def test_no_prompt_gives_the_answer_away() -> None:
    for fact in FACTS:
        for prompt in (fact.text, *fact.rephrase_prompts, *(prompt for prompt, _ in fact.locality_prompts)):
            assert fact.target_new not in prompt
            assert fact.target_true is not None
            assert fact.target_true not in prompt


def test_neighbours_share_the_true_answer_and_are_never_edited() -> None:
    for fact in FACTS:
        for prompt, answer in fact.locality_prompts:
            assert answer == fact.target_true
            assert not [other.subject for other in FACTS if other.subject in prompt]
