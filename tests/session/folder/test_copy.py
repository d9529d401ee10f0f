"""The rounds of a session in memory, written into a folder, give the folder of a session."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_tokenizer
from tiny_sessions import base, edited, equal, hparams, in_memory, opened, rounds_of

from nse_plugin.session import SessionError, read_rounds
from nse_plugin.session.edited import EditedModel
from nse_plugin.session.folder.copy import SessionCopy, rounds_to

ROUNDS = rounds_of(5)
KINDS = [("llama", torch.float32), ("gpt2", torch.float32), ("llama", torch.bfloat16)]


def copy_of(folder, model, masters=None):
    return SessionCopy(folder, EditedModel(model, tiny_tokenizer(), hparams()), masters)


@pytest.fixture
def folder(tmp_path):
    """An empty folder: `tmp_path` has the user's cache."""
    (tmp_path / "session").mkdir()
    return tmp_path / "session"


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_it_is_the_session_it_follows(kind, dtype, folder):
    model = base(kind, dtype)
    copy, session, after = copy_of(folder, model), in_memory(model), [edited(model)]
    for facts in ROUNDS[:4]:
        session.edit(facts, author="Ann")
        copy.add(session.state)
        after.append(edited(model))
    copy.close()
    assert [(one.author, one.facts, one.statuses) for one in read_rounds(folder)] == [
        (one.author, one.facts, one.statuses) for one in session.rounds
    ]
    again = base(kind, dtype)
    with opened(folder, again) as found:
        assert equal(edited(again), after[4])
        assert found.check().equals(session.check())
        session.edit(ROUNDS[4])
        found.edit(ROUNDS[4])
        assert equal(edited(again), edited(model))
        found.rollback(3)
        assert equal(edited(again), after[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_an_earlier_round(dtype, folder):
    """What was written down after that round belongs to a process that was killed."""
    model = base(dtype=dtype)
    copy, session, masters = copy_of(folder, model), in_memory(model), {}
    for number, facts in enumerate(ROUNDS[:4]):
        session.edit(facts)
        copy.add(session.state)
        if number == 1:
            masters = dict(session.state.history.masters or {})
    copy.close()
    session.rollback(2)
    copy = copy_of(folder, model, masters)
    assert len(read_rounds(folder)) == 2
    session.edit(ROUNDS[4])
    copy.add(session.state)
    copy.close()
    again = base(dtype=dtype)
    with opened(folder, again) as found:
        assert equal(edited(again), edited(model))
        for one in (session, found):
            one.edit(ROUNDS[3])
        assert equal(edited(again), edited(model))


def test_it_begins_again_before_the_first_round(folder):
    model = base()
    copy, session = copy_of(folder, model), in_memory(model)
    session.edit(ROUNDS[0])
    copy.add(session.state)
    copy.close()
    copy_of(folder, base()).close()
    assert read_rounds(folder) == []


def test_other_weights_are_refused(folder):
    model = base()
    copy, session = copy_of(folder, model), in_memory(model)
    session.edit(ROUNDS[0])
    copy.add(session.state)
    copy.close()
    session.edit(ROUNDS[1])
    with pytest.raises(SessionError, match="has no round that left the model's present weights"):
        copy_of(folder, model)
    assert len(read_rounds(folder)) == 1
    copy_of(folder, base()).close()  # the lock is free


def test_rounds_to_is_none_without_a_session(folder):
    assert rounds_to(folder / "nowhere", {}) is None
    assert rounds_to(folder, {}) is None
