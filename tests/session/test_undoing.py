"""Rollback, retirement, conflicts and checking facts, in memory and in a folder."""

from __future__ import annotations

import pytest
import torch
from tiny_sessions import base, begun, edited, equal, hparams, in_memory, of_rounds, opened, rounds_of

from nse_plugin import EditSession, Fact, FactError
from nse_plugin.session import SessionError, read_rounds

ROUNDS = rounds_of(5)
NEXT = rounds_of(6)[5]


def without(case_ids):
    left = [[fact for fact in facts if fact.case_id not in case_ids] for facts in ROUNDS]
    return [facts for facts in left if facts]


def protected(session):
    layers = session.state.knowledge.layers
    return [part for layer in sorted(layers) for part in layers[layer].parts if len(part)]


# -- rollback ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "kind", "dtype"),
    [("memory", "llama", torch.bfloat16), ("folder", "llama", torch.float32), ("folder", "gpt2", torch.bfloat16)],
)
def test_rounds_that_are_rolled_back_were_never_made(where, kind, dtype, tmp_path):
    model = base(kind, dtype)
    session = begun(where, model, tmp_path)
    for facts in ROUNDS:
        session.edit(facts)
    for undone in (1, 3):
        stand = len(session.rounds) - undone
        ids = [one.id for one in session.rounds]
        assert [one.id for one in session.rollback(rounds=undone)] == ids[stand:]
        plain = of_rounds(ROUNDS[:stand], kind, dtype)
        assert equal(edited(model), edited(plain.model))
        assert equal(protected(session), protected(plain))
        if where == "folder":
            assert len(list((tmp_path / "session" / "rounds").iterdir())) == stand
            session.close()
            session = opened(tmp_path / "session", base(kind, dtype))
            model = session.model
    report, expected = session.edit(NEXT), plain.edit(NEXT)
    assert equal(edited(model), edited(plain.model))
    assert report.frame.drop(columns="seconds").equals(expected.frame.drop(columns="seconds"))


def test_rollback_to_a_round(tmp_path):
    session = of_rounds(ROUNDS[:4])
    first, second, *_ = (one.id for one in session.rounds)
    session.rollback(to=second[:12])
    assert [one.id for one in session.rounds] == [first, second]
    assert equal(edited(session.model), edited(of_rounds(ROUNDS[:2]).model))
    assert session.rollback(to=second) == []
    session.rollback(rounds=2)
    assert equal(edited(session.model), edited(base()))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"rounds": 3}, "rounds = 3 cannot be undone: the session has 2"), ({"rounds": 0}, "rounds = 0 cannot"),
        ({"rounds": "1"}, "rounds = '1' cannot"), ({"to": ""}, "to = '' is no round"),
        ({"to": "zz"}, r"to = 'zz' is no round of the session: give one of \w{8}, "),
        ({"rounds": 1, "to": "a"}, "give one of them"),
    ],
)  # fmt: skip
def test_what_cannot_be_rolled_back(asked, says):
    session = of_rounds(ROUNDS[:2])
    with pytest.raises(ValueError, match=says):
        session.rollback(**asked)
    assert len(session.rounds) == 2


def test_rounds_whose_columns_were_not_kept_cannot_be_rolled_back():
    session = in_memory(base())
    session = EditSession(session.model, session.tokenizer, hparams(), session.moments, ["{}"], undoable=False)
    session.edit(ROUNDS[0])
    after = edited(session.model)
    with pytest.raises(SessionError, match="Round 1 was made without keeping what it changed: use undoable=True"):
        session.rollback()
    assert equal(edited(session.model), after)
    assert len(session.rounds) == 1


# -- retirement --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "case_ids", "dtype"),
    [("memory", ["7", 2], torch.bfloat16), ("folder", 2, torch.float32), ("folder", [0, 1], torch.bfloat16)],
)  # a part of a round and a whole one, a whole one, the first
def test_facts_that_are_retired_were_never_written(where, case_ids, dtype, tmp_path):
    model = base(dtype=dtype)
    session = begun(where, model, tmp_path)
    for facts in ROUNDS:
        session.edit(facts, author="Ann", reason="why not")
    times = {one.facts[-1].case_id: one.time for one in session.rounds}
    reports = session.retire(case_ids)
    gone = {int(one) for one in ([case_ids] if isinstance(case_ids, int) else case_ids)}
    plain = of_rounds(without(gone), dtype=dtype)
    assert equal(edited(model), edited(plain.model))
    assert equal(protected(session), protected(plain))
    assert [list(one.facts) for one in session.rounds] == without(gone)
    assert all((one.author, one.reason) == ("Ann", "why not") for one in session.rounds)
    assert all(one.time == times.get(one.facts[-1].case_id, one.time) for one in session.rounds)
    assert 0 < len(reports) <= len(session.rounds)
    if where == "folder":
        assert [one.id for one in read_rounds(tmp_path / "session")] == [one.id for one in session.rounds]
        assert len(list((tmp_path / "session" / "rounds").iterdir())) == len(session.rounds)
        session.close()
        session = opened(tmp_path / "session", base(dtype=dtype))
        assert equal(edited(session.model), edited(model))
    session.edit(NEXT)
    plain.edit(NEXT)
    assert equal(edited(session.model), edited(plain.model))


def test_a_fact_that_was_kept_out_is_written_when_the_one_before_it_is_retired():
    first, second = Fact("{} is", "Rome", "cold", case_id=1), Fact("{} is", "Rome", "wet", case_id=2)
    session = in_memory(base())
    session.edit([first, NEXT[0]])
    assert session.edit(second, on_conflict="keep").frame["status"].tolist() == ["kept"]
    assert len(session.rounds) == 1
    session.edit([second, Fact("{} is", "Lyon", "wet", case_id=3)], on_conflict="keep")
    session.retire(1)
    plain = of_rounds([[NEXT[0]], [second, Fact("{} is", "Lyon", "wet", case_id=3)]])
    assert equal(edited(session.model), edited(plain.model))


def test_a_retirement_that_fails_changes_nothing(tmp_path, monkeypatch):
    session = begun("folder", base(), tmp_path)
    for facts in ROUNDS[:3]:
        session.edit(facts)
    before, ids = edited(session.model), [one.id for one in session.rounds]
    own, calls = session._rounds.written, []

    def second_fails(*args):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return own(*args)

    monkeypatch.setattr(session._rounds, "written", second_fails)
    with pytest.raises(MemoryError):
        session.retire(0)
    monkeypatch.undo()
    assert equal(edited(session.model), before)
    assert [one.id for one in session.rounds] == ids == [one.id for one in read_rounds(tmp_path / "session")]
    assert len(list((tmp_path / "session" / "rounds").iterdir())) == 3


def test_what_cannot_be_retired():
    session = of_rounds(ROUNDS[:2])
    for case_ids, says in ((99, "holds '99', and no round has such a fact"), ([], "case_ids is empty")):
        with pytest.raises(FactError, match=says):
            session.retire(case_ids)
    fact = Fact("{} is", "Rome", "cold", case_id=50)
    session.edit_with_values([fact], session.values(fact))
    with pytest.raises(SessionError, match="Round 3 was written with given values"):
        session.retire(0)
    assert len(session.rounds) == 3


# -- conflicts ---------------------------------------------------------------------------------------------------


# -- do facts hold? ----------------------------------------------------------------------------------------------
