"""The facts that come with the package: their form, and that each one means what it should."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from nse_plugin.evaluation.metrics.subjects import replaced
from nse_plugin.facts import Fact
from nse_plugin.facts.files import BUNDLED, DEMO, load_facts

FIRST, CORRECTIONS = 148, 12
SETS = {name: load_facts(name).facts for name in BUNDLED if name != DEMO}
BY_SUBJECT = ("same_subject", "same_subject_chat")


@pytest.mark.parametrize("name", SETS)
def test_each_fact_is_complete_and_there_once(name: str) -> None:
    facts = SETS[name]
    assert [fact.case_id for fact in facts] == list(range(1, len(facts) + 1))
    assert len({fact.signature for fact in facts}) == len(facts)
    subjects = {fact.subject for fact in facts}
    for fact in facts:
        assert fact.target_true
        assert fact.target_new.casefold() != fact.target_true.casefold()
        asked = (fact.text, *fact.rephrase_prompts)
        assert len(set(asked)) == 2
        assert all(prompt.count(fact.subject) == 1 for prompt in asked)
        others = [prompt for prompt, _ in fact.locality_prompts]
        assert fact.locality_prompts[0][1] == fact.target_true
        assert not [subject for subject in subjects if subject in others[0]]
        for answer in (fact.target_new, fact.target_true):
            assert not [prompt for prompt in (*asked, *others) if answer.casefold() in prompt.casefold().split()]


@pytest.mark.parametrize("name", BY_SUBJECT)
def test_forty_subjects_have_three_to_five_facts_each(name: str) -> None:
    facts = SETS[name]
    first = facts[:FIRST]
    counts = Counter(fact.subject for fact in first)
    assert (len(facts), len(counts)) == (164, 40)
    assert set(counts.values()) == {3, 4, 5}
    assert not any(replaced(first))
    questions = {prompt for fact in facts for prompt in (fact.text, *fact.rephrase_prompts)}
    for fact in first:  # one more thing about it, which no fact writes or asks
        assert fact.subject in fact.locality_prompts[1][0]
        assert fact.locality_prompts[1][0] not in questions
    ends = {fact.prompt.startswith("{}") for fact in first}
    assert ends == ({False} if name.endswith("chat") else {True, False})


@pytest.mark.parametrize("name", BY_SUBJECT)
@pytest.mark.parametrize("size", [1, 5, 10, 20, 40])
def test_a_round_has_a_subject_once_and_never_a_fact_and_its_correction(name: str, size: int) -> None:
    rounds: dict[tuple[str, bool], list[int]] = defaultdict(list)
    asked = Counter()
    for place, fact in enumerate(SETS[name]):
        asked[fact.question, place // size] += 1
        rounds[fact.subject, place < FIRST].append(place // size)
    assert set(asked.values()) == {1}
    if size <= 20:
        assert all(len(set(own)) == len(own) for (_, is_first), own in rounds.items() if is_first)


@pytest.mark.parametrize("name", BY_SUBJECT)
def test_corrections_replace_and_some_are_replaced_themselves(name: str, caplog: pytest.LogCaptureFixture) -> None:
    facts = load_facts(name).facts
    assert not caplog.text  # they are meant to
    gone = [place for place, is_gone in enumerate(replaced(facts)) if is_gone]
    assert len(gone) == 16
    assert [place for place in gone if place >= FIRST] == list(range(FIRST, FIRST + 4))
    targets: dict[tuple[str, str], list[str]] = defaultdict(list)
    for fact in facts:
        targets[fact.question].append(fact.target_new)
    assert Counter(map(len, targets.values())) == {1: 136, 2: 8, 3: 4}
    assert all(len(set(own)) == len(own) for own in targets.values())
    first, last = {fact.question for fact in facts[:FIRST]}, {fact.question for fact in facts[FIRST:]}
    assert last < first
    for fact in facts[FIRST:]:  # but for the target they are the fact that they correct
        (old,) = (one for one in facts[:FIRST] if one.question == fact.question)
        assert fact.target_true == old.target_true
        assert (fact.rephrase_prompts, fact.locality_prompts) == (old.rephrase_prompts, old.locality_prompts)


def test_the_chat_form_asks_for_the_same_facts() -> None:
    def told(fact: Fact) -> tuple[str, ...]:
        return fact.subject, fact.target_new.casefold(), str(fact.target_true).casefold()

    assert [*map(told, SETS["same_subject"])] == [*map(told, SETS["same_subject_chat"])]
    for fact in SETS["same_subject_chat"]:
        prompts = (fact.text, *fact.rephrase_prompts, *(prompt for prompt, _ in fact.locality_prompts))
        assert all(prompt.endswith(("?", ".")) for prompt in prompts)


def test_scripts_without_spaces() -> None:
    facts = SETS["unspaced"]
    assert len(facts) == 20
    kana = [any("\u3040" <= letter <= "\u30ff" for letter in fact.prompt) for fact in facts]
    assert kana == [False] * 10 + [True] * 10
    assert len({fact.subject for fact in facts}) == 20
    for fact in facts:
        assert fact.separator is None
        prompts = (fact.text, *fact.rephrase_prompts, *(prompt for prompt, _ in fact.locality_prompts))
        assert not any(letter.isspace() for prompt in (*prompts, fact.target_new) for letter in prompt)
        assert not any(answer in prompt for prompt in prompts for answer in (fact.target_new, fact.target_true))
