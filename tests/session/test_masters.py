"""Master copies: a bfloat16 model's changes add up in float32."""

from __future__ import annotations

import pytest
import torch
from tiny import TEMPLATES, tiny_moments, tiny_tokenizer
from tiny_sessions import LAYERS, base, edited, hparams, in_memory, rounds_of

from nse_plugin import EditSession
from nse_plugin.session import masters

ROUNDS = rounds_of(12)


def distance(session, reference):
    """To a float32 session, relative to what that one changed."""
    own, other, start = (edited(model) for model in (session.model, reference.model, base(dtype=torch.bfloat16)))
    far = sum((a.float() - b).square().sum() for a, b in zip(own, other, strict=True))
    return float((far / sum((b - c.float()).square().sum() for b, c in zip(other, start, strict=True))).sqrt())


def edited_by(model, values=None):
    """After single-fact rounds of small changes."""
    settings = hparams(mom2_update_weight=200.0)
    session = EditSession(model, tiny_tokenizer(), settings, tiny_moments(base(), LAYERS), TEMPLATES)
    for number, (fact, *_) in enumerate(ROUNDS):
        session.edit_with_values(fact, None if values is None else values[number : number + 1].to(model.dtype))
    return session


def test_small_changes_of_many_rounds_are_not_lost(monkeypatch):
    exact = base(dtype=torch.bfloat16).float()
    values = in_memory(exact).values([facts[0] for facts in ROUNDS])
    reference = edited_by(exact, values)
    with_copies = edited_by(base(dtype=torch.bfloat16), values)
    monkeypatch.setattr(masters, "COARSE", ())
    without = edited_by(base(dtype=torch.bfloat16), values)
    assert without.state.history.masters is None
    assert distance(with_copies, reference) < 0.7 * distance(without, reference)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_model_is_its_master_copy_rounded(kind, dtype):
    session = in_memory(base(kind, dtype))
    for facts in ROUNDS[:2]:
        session.edit(facts)
        copies = session.state.history.masters
        assert all(copy.dtype == torch.float32 for copy in copies.values())
        assert all(map(torch.equal, edited(session.model), [copies[layer].to(dtype) for layer in LAYERS]))
        assert not any(torch.equal(copies[layer].to(dtype).float(), copies[layer]) for layer in LAYERS)


def test_models_in_float32_have_none():
    session = in_memory(base())
    session.edit(ROUNDS[0])
    assert session.state.history.masters is None


def test_weights_that_are_put_back_are_their_own_master_copies():
    """Of rounds whose columns are not kept."""
    model = base(dtype=torch.bfloat16)
    settings = hparams()
    session = EditSession(model, tiny_tokenizer(), settings, tiny_moments(base(), LAYERS), TEMPLATES, undoable=False)
    session.edit(ROUNDS[0])
    after = edited(model)
    session.edit(ROUNDS[1])
    for matrix, weight in zip(session._edited.matrices.values(), after, strict=True):
        matrix.weight.data.copy_(weight)
    session.edit(ROUNDS[2])
    assert len(session.rounds) == 2
    assert session.rounds[-1].statuses[0] != "failed"
