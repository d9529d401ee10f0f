"""Changes of a session's folder by others while a process has it open."""

from __future__ import annotations

import os

import pytest
from tiny_sessions import base, edited, equal, opened, rounds_of

from nse_plugin import EditPatch
from nse_plugin.session import SessionError, read_rounds
from nse_plugin.session.folder import opening
from nse_plugin.session.folder.journal import Journal

ROUNDS = rounds_of(3)


def test_a_process_that_goes_to_another_folder_writes_to_the_same_session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = base()
    session = opened("session", model)
    session.edit(ROUNDS[0])
    (tmp_path / "other").mkdir()
    os.chdir("other")
    session.edit(ROUNDS[1])
    session.close()
    assert list((tmp_path / "other").iterdir()) == []
    assert len(read_rounds(tmp_path / "session")) == 2
    again = base()
    opened(tmp_path / "session", again).close()
    assert equal(edited(again), edited(model))


@pytest.mark.parametrize("action", [lambda s: s.edit(ROUNDS[2]), lambda s: s.rollback(), lambda s: s.retire([0])])
def test_rounds_that_another_process_made_are_not_overwritten(action, tmp_path):
    """Where the lock does not reach."""
    model = base()
    with opened(tmp_path, model) as session:
        for facts in ROUNDS[:2]:
            session.edit(facts)
        before, kept = edited(model), read_rounds(tmp_path)
        others = tmp_path / "HEAD"
        others.write_text(f"0001 {kept[0].id}\n")
        with pytest.raises(SessionError, match="has other rounds than when it was opened"):
            action(session)
        assert equal(edited(model), before)
    assert [one.id for one in read_rounds(tmp_path)] == [kept[0].id]


def test_nothing_is_left_in_a_folder_of_other_files(tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(SessionError, match=r"has no session\.json and holds letter\.txt"):
        opened(tmp_path, base())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("notes", [{"author": 17}, {"reason": object()}])
def test_authors_and_reasons_are_text(notes, tmp_path):
    model = base()
    with opened(tmp_path, model) as session:
        with pytest.raises(ValueError, match=f"{next(iter(notes))} is a (int|object): give text, or leave it out"):
            session.edit(ROUNDS[0], **notes)
        assert (session.rounds, equal(edited(model), edited(base()))) == ([], True)


def test_a_patch_is_of_one_moment(tmp_path, monkeypatch):
    """Another process undoes a round as soon as HEAD has been read."""
    model = base()
    with opened(tmp_path, model) as session:
        for facts in ROUNDS:
            session.edit(facts)
    own, seen = Journal.head, []

    def head(journal):
        if len(seen) == 1:
            seen.append("undone")
            opening.roll_back(tmp_path)
        elif not seen:
            seen.append("read")
        return own(journal)

    monkeypatch.setattr(Journal, "head", head)
    patch, model = EditPatch.of(tmp_path), base()
    patch.apply(model)
    assert patch.verify(model) == "applied"
