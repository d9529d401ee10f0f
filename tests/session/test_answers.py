"""What a model writes before and after the edits of a session."""

from __future__ import annotations

import pytest
import torch
from tiny_sessions import base, edited, equal, in_memory, rounds_of

from nse_plugin.session.answers import before_and_after

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
