"""The benchmark's facts."""

from __future__ import annotations

import pytest
from tiny import TEMPLATES, tiny_tokenizer

from benchmarks.facts import RELATION_LENGTHS, check_lengths, make_facts, relation_length
from nse_plugin.facts import Fact
from nse_plugin.facts.conflicts import check_round
from nse_plugin.models.prompts import encode_fact


@pytest.mark.parametrize("relation", RELATION_LENGTHS)
def test_facts_of_a_round_differ(relation: int) -> None:
    facts = make_facts(120, relation, neighbours=10)
    check_round(facts)
    assert len({(fact.prompt, fact.subject) for fact in facts}) == 120
    assert all(fact.target_new != fact.target_true for fact in facts)
    assert all(len(fact.rephrase_prompts) == 2 and len(set(fact.locality_prompts)) == 10 for fact in facts)
    assert {fact.prompt.startswith("{}") for fact in facts[:2]} == {True, False}


def test_without_neighbours_there_is_nothing_to_evaluate() -> None:
    assert make_facts(1)[0].rephrase_prompts == ()
    assert make_facts(1)[0].locality_prompts == ()


def test_length_is_counted_behind_the_subject_up_to_the_target() -> None:
    tokenizer = tiny_tokenizer()
    for prompt, target in (("{} is", "Rome"), ("The capital of {} is", "Rome, an old town")):
        between = len(tokenizer(" is")["input_ids"])
        fact = Fact(prompt, "France", target)
        assert relation_length(encode_fact(tokenizer, fact, TEMPLATES)) == between


def test_another_tokenizers_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"benchmarks/facts\.py are SmolLM2's"):
        check_lengths(tiny_tokenizer())


def test_lengths_are_right_for_smollm2() -> None:
    from nse_plugin.models.embedded import EmbeddedModelError, gguf_path, read_tokenizer

    gguf = pytest.importorskip("gguf")
    try:
        check_lengths(read_tokenizer(gguf.GGUFReader(str(gguf_path()))))
    except EmbeddedModelError as missing:
        pytest.skip(str(missing))
