"""Prompts in a chat follow the chat template, and the assistant's text is scored as in plain text."""

from __future__ import annotations

import math
from typing import Any

import pytest
from next_word import BY_HAND, NextWord
from tiny import CHAT, tiny_tokenizer

from nse_plugin.evaluation.metrics.chat import Chat, answered, pairs, scores
from nse_plugin.evaluation.metrics.generation import answers
from nse_plugin.evaluation.suite import measure
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.facts import Fact
from nse_plugin.models.prompts import encode_fact, split_target

ITALY = Fact("The capital of {} is", "Italy", "Paris", "Rome")


def test_scores_by_hand(tokenizer: Any) -> None:
    """After "is" the model says Paris, then Los; the assistant, whose turn begins with "a", begins with Rome."""
    model = NextWord(tokenizer.get_vocab(), {**BY_HAND, "a": {"Rome": 1 / 2}})
    frame = Chat().frame(tokenizer)
    others = [
        Fact("The capital of {} is", "Peru", "Rome", "Paris"), Fact("{} is", "Peru", "Los Angeles", "Rome"),
        Fact("{} is", "Peru", "Lima"),
    ]  # fmt: skip
    facts = [ITALY, *others]
    predictions = predict(model, tokenizer, [pair for fact in facts for pair in pairs(fact, frame)])
    found = [list(scores(fact, predictions, frame).values()) for fact in facts]
    assert found[:3] == [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.5, 0.0]]
    assert found[3][1:] == [0.0, 0.0]
    assert math.isnan(found[3][0])  # it has no old answer


def test_efficacy_and_its_like_in_a_chat_by_hand(tokenizer: Any) -> None:
    model = NextWord(tokenizer.get_vocab(), {**BY_HAND, "a": {"Rome": 1 / 2}})
    fact = Fact(ITALY.prompt, ITALY.subject, "Rome", "Paris", ("Italy is", "we saw"), (("Peru is", "Paris"),))
    for chat, expected in ((False, [0.0, 0.0, 1.0]), (True, [1.0, 1.0, 0.0]), ("both", [0.5, 0.5, 0.5])):
        measured = measure(model, tokenizer, [fact], ["probability"], probability_chat=chat)
        assert measured.facts.iloc[0, :3].tolist() == expected


@pytest.mark.parametrize("bos", [False, True], ids=["", "bos"])
def test_what_is_asked_is_what_the_template_makes_of_it_and_what_is_written(bos: bool) -> None:
    tokenizer = tiny_tokenizer(bos, chat="{{ bos_token }}" * bos + CHAT)
    fact = Fact("The capital of {} is", "France", "Lyon", "Paris", separator=" ")
    frame = Chat().frame(tokenizer)
    first, *begun = pairs(fact, frame)
    user, assistant = ({"role": role, "content": fact.text} for role in ("user", "assistant"))
    asked, target = split_target(tokenizer, *first)
    assert asked == tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False)
    [row] = encode_fact(tokenizer, fact, ["{}"], frame=frame).rewrites
    assert ([*row.ids, row.targets[-1]], list(row.targets)) == (asked + target, target)
    repeated = tokenizer.apply_chat_template([user, assistant], continue_final_message=True, return_dict=False)
    assert [split_target(tokenizer, *pair)[0] for pair in begun] == [repeated, repeated]
    assert [tokenizer.decode(split_target(tokenizer, *pair)[1]) for pair in begun] == [" Lyon", " Paris"]


def test_the_assistant_answers_freely(model: Any, tokenizer: Any) -> None:
    frame = Chat().frame(tokenizer)
    [text] = answers(model, tokenizer, ["we saw The capital of Italy is a"])
    words = text.split()
    missing = next(word for word in tokenizer.get_vocab() if word not in words)
    facts = [
        Fact(ITALY.prompt, "Italy", words[0], missing), Fact(ITALY.prompt, "Italy", missing, words[-1]),
        Fact(ITALY.prompt, "Italy", missing),
    ]  # fmt: skip
    frame, texts = answered(model, tokenizer, facts, frame)
    assert texts == [text] * 3
    assert frame["chat_states_new"].tolist() == [1.0, 0.0, 0.0]
    assert frame["chat_names_old"].tolist() == pytest.approx([0.0, 1.0, math.nan], nan_ok=True)
