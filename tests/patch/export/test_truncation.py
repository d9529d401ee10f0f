"""How many facts a truncated adapter keeps, counted on the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rounds import same, weights_of
from tiny import tiny_model, tiny_tokenizer

from nse_plugin import EditPatch, Fact
from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.export.factors import factors_of
from nse_plugin.patch.export.truncation import kept_at_rank
from nse_plugin.patch.rounds import record_of

WORDS = ("France", "Lyon", "Rome", "Italy", "Germany", "Berlin", "Japan", "Warsaw", "town", "river", "wind", "rain")


def next_token(model, prompt):
    with torch.no_grad():
        return int(model(torch.tensor([tiny_tokenizer()(prompt)["input_ids"]])).logits[0, -1].argmax())


@pytest.fixture
def said(edited):
    """(the edited model, its patch with facts that it says: what comes next, where that is a word)."""
    session = edited()
    tokenizer, facts = tiny_tokenizer(), []
    for prompt in ("The {} of", "Because {} stands", "{} is in", "He speaks of {} and"):
        for word in WORDS:
            token = next_token(session.model, prompt.format(word))
            asked, text = prompt.format(word), tokenizer.decode([token])
            tokens = [*tokenizer(asked)["input_ids"], token]
            if text == text.strip() and tokenizer(asked + text)["input_ids"] == tokens:
                facts.append(Fact(prompt, word, text, separator=""))
    return session.model, dataclasses.replace(EditPatch.of(session), facts=[record_of(fact) for fact in facts])


def test_counts_are_those_of_the_truncated_model(said):
    model, patch = said
    tokenizer, facts = tiny_tokenizer(), [Fact(**record) for record in patch.facts]
    assert len(facts) >= 5
    base, before = tiny_model("llama", torch.float32), weights_of(model)
    found = {rank: kept_at_rank(patch, model, tokenizer, rank) for rank in (1, 100)}
    assert same(model, before)
    assert found[100]["begun"] == found[100]["begun_whole"] == found[100]["facts"] == len(facts)
    assert found[1] == kept_at_rank(patch, base, tokenizer, 1)
    assert same(base, weights_of(tiny_model("llama", torch.float32)))
    for layer, one in factors_of(patch, 1).items():
        base.model.layers[layer].mlp.down_proj.weight.data += one.b @ one.a
    kept = sum(tokenizer.decode([next_token(base, fact.text)]) == fact.target_new for fact in facts)
    assert found[1]["begun"] == kept < len(facts)


def test_without_facts_or_on_another_model(said):
    model, patch = said
    with pytest.raises(PatchError, match="holds no facts"):
        kept_at_rank(dataclasses.replace(patch, facts=None), model, tiny_tokenizer(), 1)
    with pytest.raises(PatchError):
        kept_at_rank(patch, tiny_model("llama", torch.float32, seed=1), tiny_tokenizer(), 1)
