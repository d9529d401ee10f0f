"""Facts of one round that contradict or repeat each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nse_plugin.facts import Fact, FactError
from nse_plugin.facts.conflicts import check_round, same_questions


def test_a_space_does_not_make_another_prompt():
    asked = [Fact("The capital of {} is", "France", "Lyon"), Fact("The capital of {} is ", "France ", "Rome")]
    with pytest.raises(FactError, match=r"different targets, 'Lyon' and 'Rome'"):
        check_round(asked)


def test_a_round_asks_one_thing_of_a_prompt(facts):
    lyon, rome = Fact("The capital of {} is", "France", "Lyon"), Fact("The capital of {} is", "France", "Rome")
    check_round(facts)
    check_round([lyon, Fact("The capital of {} is", "Italy", "Rome")])
    check_round([lyon, Fact("{}'s capital is", "France", "Lyon")])
    with pytest.raises(FactError, match="'The capital of France is'.*'Lyon' and 'Rome'"):
        check_round([lyon, rome])
    with pytest.raises(FactError, match="facts is empty"):
        check_round([])


def test_facts_with_the_same_question_are_paired_with_the_last_one_before():
    names = ["France", "Italy", "France ", "Japan", "Italy", "France"]
    asked = [Fact("The capital of {} is", name, f"Town {place}") for place, name in enumerate(names)]
    assert list(same_questions(asked)) == [(0, 2), (1, 4), (2, 5)]
    assert list(same_questions(asked[:2])) == []


def test_a_round_has_a_fact_once(facts):
    """It would weigh twice. Spaces do not make it another."""
    lyon, again = Fact("The capital of {} is", "France", "Lyon"), Fact("The capital of {} is ", "France", " Lyon")
    with pytest.raises(FactError, match=r"are the same, facts\[0\] and facts\[1\] ask 'The capital of France is' for"):
        check_round([lyon, again])
    numbered = [replace(fact, case_id=case) for fact, case in ((lyon, "a"), (facts[1], 7), (again, 9))]
    with pytest.raises(FactError, match=r"are the same, fact a and fact 9 ask .* for 'Lyon': keep one"):
        check_round(numbered)
