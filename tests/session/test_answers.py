"""The model's texts before and after the edits of a session."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_moments, tiny_tokenizer
from tiny_sessions import LAYERS, base, edited, equal, hparams, in_memory, rounds_of

from nse_plugin import EditSession, Fact
from nse_plugin.session.answers import before_and_after
from nse_plugin.session.page.facts import ask

PROMPTS = ["The capital of France is", "Lyon"]


def greedy(model, tokenizer, prompt, tokens):
    """Token by token, by the whole model."""
    ids = list(tokenizer(prompt)["input_ids"])
    start = len(ids)
    while len(ids) < start + tokens:
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])


def test_both_models_go_on_greedily_and_the_edits_stay():
    session, unedited = in_memory(base()), base()
    for facts in rounds_of(3):
        session.edit(facts)
    weights = edited(session.model)
    found = before_and_after(session, PROMPTS, 4)
    assert equal(edited(session.model), weights)
    for prompt, (before, after) in zip(PROMPTS, found, strict=True):
        assert before == greedy(unedited, session.tokenizer, prompt, 4)
        assert after == greedy(session.model, session.tokenizer, prompt, 4)
    assert any(before != after for before, after in found)


def test_a_prompt_without_room_is_refused():
    with pytest.raises(ValueError, match="with room for 60 more"):
        before_and_after(in_memory(base()), PROMPTS, 60)


TOKENIZER = tiny_tokenizer()


def prompt_of(tokens):
    """A text of so many tokens; the model has 64 positions."""
    text = TOKENIZER.decode(TOKENIZER("the town " * tokens).input_ids[:tokens])
    assert len(TOKENIZER(text).input_ids) == tokens
    return text


def test_fewer_tokens_are_written():
    session = in_memory(base())
    session.edit(Fact("The capital of {} is", "France", "Lyon"))
    prompts = ["The capital of France is", prompt_of(50), prompt_of(60), prompt_of(64), "Rome is"]
    answers = before_and_after(session, prompts, 20, or_fewer=True)
    alone = [before_and_after(session, [prompt], room)[0] for prompt, room in zip(prompts[1:3], (14, 4), strict=True)]
    assert answers[1:3] == alone
    assert answers[3] == ("", "")
    assert [answers[0], answers[4]] == before_and_after(session, [prompts[0], prompts[4]], 20)
    with pytest.raises(ValueError, match="with room for 20 more is 70 tokens long, and the model has 64 positions"):
        before_and_after(session, prompts[:2], 20)


def test_a_page_has_every_fact():
    session = EditSession(base(), TOKENIZER, hparams(), tiny_moments(base(), LAYERS), ["{}"])
    long = Fact(prompt_of(44) + " {} is", "France", "Lyon")
    session.edit([long, Fact("The capital of {} is", "Japan", "Rome")])
    assert len(TOKENIZER(long.text).input_ids) + 20 > 64
    assert [len(now.after) > 0 for now in ask(session).values()] == [True, True]
