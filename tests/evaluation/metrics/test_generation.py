from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from next_word import Written, chain
from tiny import ARCHITECTURES, CHAT, tiny_model, tiny_tokenizer

from nse_plugin.evaluation.metrics.generation import answers, contains, equals, free_generation, natural_stop, scores
from nse_plugin.facts import Fact
from nse_plugin.models.chat import chat_frame

PROMPTS = ["The capital of France is ", "Marie Curie", "The Eiffel Tower stands in the old town of", "Rome"]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_batching_writes_what_one_row_without_cache_writes(kind: str) -> None:
    model, tokenizer = tiny_model(kind), tiny_tokenizer()
    ends = {tokenizer.eos_token_id}
    expected = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt.rstrip())["input_ids"]
        written: list[int] = []
        while len(written) < 12:
            token = int(model(torch.tensor([ids + written])).logits[0, -1].argmax())
            if token in ends:
                break
            written.append(token)
        expected.append(tokenizer.decode(written).strip())
    assert answers(model, tokenizer, PROMPTS, tokens=12) == expected
    assert answers(model, tokenizer, PROMPTS, tokens=12, tokens_per_batch=1) == expected
    left = tiny_tokenizer(padding_side="left")
    assert answers(model, left, PROMPTS, tokens=12) == expected


def test_it_stops_by_itself_and_not_at_the_targets_length(tokenizer: Any) -> None:
    ids = tokenizer.get_vocab()
    following = chain("is Los Angeles in Peru <end> Rome")
    assert answers(Written(ids, following), tokenizer, ["France is"]) == ["Los Angeles in Peru"]
    # an end-of-turn token of the model's own, one of several
    assert answers(Written(ids, following, [ids["red"], ids["Peru"]]), tokenizer, ["France is"]) == ["Los Angeles in"]
    assert answers(Written(ids, following, ids["Angeles"]), tokenizer, ["France is"]) == ["Los"]
    # a sentence's end is where the answer is taken to be all said, not where the model stops
    (text,) = answers(Written(ids, chain("is Lima . we saw Rome <end>")), tokenizer, ["France is"])
    assert text.split() == ["Lima", ".", "we", "saw", "Rome"]
    found = scores(Fact("{} is", "France", "Lima"), text)
    assert (found["generation_exact"], found["generation_contains"]) == (1.0, 1.0)
    found = scores(Fact("{} is", "France", "Rome"), text)
    assert (found["generation_exact"], found["generation_contains"]) == (0.0, 1.0)
    # nothing ends it
    endless = Written(ids, {"is": {"a": 0.9}, "a": {"red": 0.9}, "red": {"a": 0.9}})
    assert len(answers(endless, tokenizer, ["France is"])[0].split()) == 30


def test_frames_by_hand(tokenizer: Any) -> None:
    following = {**chain("is Los Angeles <end>"), **chain("in Lima Peru <end>")}
    model = Written(tokenizer.get_vocab(), following)
    facts = [
        Fact("{} is", "France", "Los Angeles", rephrase_prompts=("France is in", "Peru is")),
        Fact("{} is in", "Rome", "Lima"),
        Fact("{} is in", "Italy", "Rome"),
    ]
    frame, texts = free_generation(model, tokenizer, facts)
    assert frame["generation_exact"].tolist() == [1, 0, 0]
    assert frame["generation_contains"].tolist() == [1, 1, 0]
    assert frame["rephrase_contains"].tolist() == pytest.approx([1 / 2, math.nan, math.nan], nan_ok=True)
    assert list(frame) == ["generation_exact", "generation_contains", "rephrase_contains"]
    assert texts.to_dict("list") == {
        "fact": [0, 0, 0, 1, 2],
        "prompt": ["France is", "France is in", "Peru is", "Rome is in", "Italy is in"],
        "text": ["Los Angeles", "Lima Peru", "Los Angeles", "Lima Peru", "Lima Peru"],
    }


def test_a_judge_reads_the_answers_to_the_facts_own_prompts(tokenizer: Any) -> None:
    class Judge:
        def verdicts(self, *asked: Sequence[str]) -> list[int]:
            self.asked = asked
            return [1, 0]

    model, judge = Written(tokenizer.get_vocab(), chain("is Paris <end>")), Judge()
    facts = [Fact("{} is", "France", "Lima", rephrase_prompts=("we saw",)), Fact("{} is", "Peru", "Rome")]
    frame, _ = free_generation(model, tokenizer, facts, judge=judge)  # type: ignore[arg-type]
    assert judge.asked == (["France is", "Peru is"], ["Lima", "Rome"], ["Paris", "Paris"])
    assert frame["generation_judged"].tolist() == [1.0, 0.0]


def test_no_facts_write_nothing(tokenizer: Any) -> None:
    frame, texts = free_generation(Written(tokenizer.get_vocab(), {}), tokenizer, [])
    assert len(frame) == len(texts) == 0
    assert list(texts) == ["fact", "prompt", "text"]


@pytest.mark.parametrize("bos", [False, True], ids=["", "bos"])
def test_a_chat_prompt_is_a_users_turn(bos: bool) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(bos, chat="{{ bos_token }}" * bos + CHAT)
    asked: list[list[int]] = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: asked.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    answers(model, tokenizer, ["Rome is in"], frame=chat_frame(tokenizer), tokens=2)
    turn = [{"role": "user", "content": "Rome is in"}]
    assert asked[0] == tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert asked[0].count(0) == bos


def test_chat_needs_a_template() -> None:
    with pytest.raises(ValueError, match="chat is True, and the tokenizer has no chat template: set it to False, or"):
        free_generation(tiny_model("llama"), tiny_tokenizer(), [Fact("{} is in", "Rome", "Peru")], chat=True)


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    long = "x" * 40
    assert len(tokenizer(long)["input_ids"]) == 40
    with pytest.raises(
        ValueError, match=r"prompt 'x+'? with room for 30 more is 70 tokens long, and the model has 64 positions"
    ):
        answers(tiny_model("llama"), tokenizer, ["Rome", long])
    assert len(answers(tiny_model("gpt2"), tokenizer, [long], tokens=24)) == 1  # learned positions, to the last one


@pytest.mark.parametrize(
    ("text", "stopped"),
    [
        (" Lyon. It lies in France.", "Lyon."),
        ("\n\nLyon, of course\nQ: and", "Lyon, of course"),
        ("Lyon", "Lyon"),
        ("", ""),
        ("St. Louis, in the U.S. state of Missouri! Yes", "St. Louis, in the U.S. state of Missouri!"),
        ("Washington, D.C., J. Smith said 4.5 times. No", "Washington, D.C., J. Smith said 4.5 times."),
        ("Is it?  It is", "Is it?"),
        ("リヨンです。パリは", "リヨンです。"),
        ("Łódź. Ó. Murphy went. Then", "Łódź."),
    ],
)
def test_natural_stop(text: str, stopped: str) -> None:
    assert natural_stop(text) == stopped


@pytest.mark.parametrize(
    ("text", "target", "equal"),
    [
        ("Lyon.", "Lyon", True),
        ("the  United\tStates!", "United States", True),
        ("Lyon, France", "Lyon", False),
        ("Lyons", "Lyon", False),
        ("U.S.", "US", True),
        ("Cafe\u0301 de Flore", "café de flore", True),
        ("STRASSE", "Straße", True),
        ("", "Lyon", False),
        ("", "The", False),  # a target of articles alone is not nothing
        ("the", "The", True),
        ("", "?!", False),
    ],
)
def test_equals(text: str, target: str, equal: bool) -> None:
    assert equals(text, target) is equal


@pytest.mark.parametrize(
    ("text", "target", "found"),
    [
        ("It is Paris's old town", "Paris", True),
        ("a Parisian", "Paris", False),
        ("the Parisian and Paris", "Paris", True),
        ("Comparis", "paris", False),
        ("in los\n angeles.", "Los Angeles", True),
        ("Los Alamos and Angeles", "Los Angeles", False),
        ("Saint-Malo", "Malo", True),
        ("éParis", "Paris", False),
        ("Paris2", "Paris", False),
        ("Parise\u0301", "Paris", False),
        ("首都是北京市", "北京", True),
        ("Москвич", "Москва", False),
        ("ist Москва.", "москва", True),
        ("in the U.S", "U.S.", False),
        ("US", "U.S.", True),  # as it equals it
        ("written in C++, mostly", "C++", True),
        ("", "Paris", False),
    ],
)
def test_contains(text: str, target: str, found: bool) -> None:
    assert contains(text, target) is found


def test_scores_of_one_fact() -> None:
    fact = Fact("The capital of {} is", "France", "Lyon")
    assert scores(fact, "Lyon.", "in Lyon", "in Paris") == {
        "generation_exact": 1.0, "generation_contains": 1.0, "rephrase_contains": 0.5,
    }  # fmt: skip
    assert math.isnan(scores(fact, "a city")["rephrase_contains"])
