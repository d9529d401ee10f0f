"""Rollback, retirement, conflicts and the check of facts, in memory and in a folder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_tokenizer
from tiny_sessions import SUBJECTS, base, edited, equal, hparams, in_memory, opened, rounds_of

from nse_plugin import EditSession, Fact, FactError
from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.session import SessionError, check, read_rounds

ROUNDS = rounds_of(5)
NEXT = rounds_of(6)[5]


def begun(where, model, tmp_path, **changes):
    return in_memory(model, **changes) if where == "memory" else opened(tmp_path / "session", model, **changes)


def without(case_ids):
    left = [[fact for fact in facts if fact.case_id not in case_ids] for facts in ROUNDS]
    return [facts for facts in left if facts]


def of_rounds(rounds, kind="llama", dtype=torch.float32, **changes):
    session = in_memory(base(kind, dtype), **changes)
    for facts in rounds:
        session.edit(facts)
    return session


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
        ({"rounds": 3}, "rounds = 3 cannot be undone: 2 stand"), ({"rounds": 0}, "rounds = 0 cannot"),
        ({"rounds": "1"}, "rounds = '1' cannot"), ({"to": ""}, "to = '' is no round"),
        ({"to": "zz"}, r"to = 'zz' is no round that stands: give one of \w{8}, "),
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
    for case_ids, says in ((99, "holds '99', which no round that stands has"), ([], "case_ids is empty")):
        with pytest.raises(FactError, match=says):
            session.retire(case_ids)
    fact = Fact("{} is", "Rome", "cold", case_id=50)
    session.edit_with_values([fact], session.values(fact))
    with pytest.raises(SessionError, match="Round 3 was written with given values"):
        session.retire(0)
    assert len(session.rounds) == 3


# -- conflicts ---------------------------------------------------------------------------------------------------

COLD = Fact("{} is", "Rome", "cold", case_id="cold")
WET = Fact("{} is", "Rome", "wet", case_id="wet")
OTHER = Fact("{} is a town of", "Lyon", "Japan", case_id="other")


def test_conflicts_are_found_before_anything_is_written():
    session = of_rounds([[COLD]])
    assert session.conflicts([OTHER, WET]) == [(WET, COLD)]
    assert session.conflicts([OTHER, COLD]) == []


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_what_becomes_of_a_conflict(where, tmp_path):
    session = begun(where, base(), tmp_path)
    session.edit(COLD)
    before = edited(session.model)
    with pytest.raises(FactError, match=r"1 fact of this round would replace .* would be 'wet' where 'cold' stands"):
        session.edit([OTHER, WET], on_conflict="error")
    with pytest.raises(ValueError, match="on_conflict = 'ask' cannot be used: use one of replace, keep, error"):
        session.edit(WET, on_conflict="ask")
    assert session.edit([WET], on_conflict="keep").frame["status"].tolist() == ["kept"]
    assert equal(edited(session.model), before)
    assert len(session.rounds) == 1
    report = session.edit([WET, OTHER], on_conflict="keep")
    assert report.frame["case_id"].tolist() == ["wet", "other"]
    assert report.frame["status"].tolist()[0] == "kept" != report.frame["status"].tolist()[1]
    assert equal(edited(session.model), edited(of_rounds([[COLD], [OTHER]]).model))
    assert session.edit(WET).frame["replaces"].tolist() == ["cold"]


# -- do facts hold? ----------------------------------------------------------------------------------------------


def said_by(model, prompt):
    """A fact that the model says already: of the first subject whose next token is one that text gives again."""
    tokenizer = tiny_tokenizer()
    for subject in SUBJECTS:
        with torch.no_grad():
            token = model(**tokenizer(prompt.format(subject), return_tensors="pt")).logits[0, -1].argmax()
        fact = Fact(prompt, subject, tokenizer.decode(token), case_id="said", separator="")
        if predict(model, tokenizer, [fact.asked(fact.text, fact.target_new)]).popitem()[1].is_said:
            return fact
    raise AssertionError


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_check_says_which_facts_hold_and_what_took_the_place_of_the_others(where, tmp_path):
    model = base()
    said = said_by(model, "The wind of {} is")
    session = begun(where, model, tmp_path, mom2_update_weight=1e6)  # hardly changes the model
    session.edit([said, COLD, OTHER])
    session.edit(WET)
    frame = session.check()
    facts = [said, COLD, OTHER, WET]
    expected = predict(model, session.tokenizer, [fact.asked(fact.text, fact.target_new) for fact in facts])
    assert frame["case_id"].tolist() == ["said", "cold", "other", "wet"]
    assert frame["prompt"].tolist() == [fact.text for fact in facts]
    assert frame["target"].tolist() == [fact.target_new for fact in facts]
    assert frame["holds"].tolist() == [True, False, False, False] == [one.is_said for one in expected.values()]
    assert frame["probability"].tolist() == pytest.approx([one.probability for one in expected.values()], rel=1e-4)
    assert frame["round"].tolist() == [1, 1, 1, 2]
    after = [*session.rounds[0].report.frame["target_after"], *session.rounds[1].report.frame["target_after"]]
    assert frame["probability_after_round"].tolist() == after
    assert frame["overwritten_by"].tolist() == [[], ["wet"], [], []]
    again = dataclasses.replace(said, case_id="again")
    session.edit(again)
    assert session.check()["case_id"].tolist() == ["cold", "other", "wet", "again"]


def test_check_names_later_facts_about_the_subject_of_one_that_no_longer_holds(monkeypatch):
    session = of_rounds([[OTHER], [Fact("The wind of {} is", "Lyon", "cold")]])
    own = check.predictions
    monkeypatch.setattr(
        check, "predictions", lambda *args: [type(p)(p.log_probability, p.target, ()) for p in own(*args)]
    )
    assert session.check()["overwritten_by"].tolist() == [["The wind of Lyon is"], []]


def test_check_of_a_session_without_rounds_is_empty():
    assert list(in_memory(base()).check().columns)[:5] == ["case_id", "subject", "prompt", "target", "holds"]
