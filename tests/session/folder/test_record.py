"""What is kept of a round besides its tensors."""

from __future__ import annotations

import dataclasses

from tiny_sessions import base, hparams, in_memory, opened, rounds_of

from nse_plugin.session import read_rounds

ROUNDS = rounds_of(5)


def test_rounds_say_who_when_why_and_what(finished):
    found = read_rounds(finished[0])
    assert [one.number for one in found] == [1, 2, 3, 4, 5]
    assert {(one.author, one.reason, one.on_conflict) for one in found} == {("Ann", "it was wrong", "replace")}
    assert [list(one.facts) for one in found] == ROUNDS
    assert all(len(one.statuses) == len(one.facts) for one in found)
    assert len({one.id for one in found}) == 5
    assert all(one.time.endswith("+00:00") for one in found)
    assert [one.before for one in found[1:]] == [one.after for one in found[:-1]]
    assert found[0].settings == {name: v for name, v in hparams().to_dict().items() if name != "api_key"}


def test_rounds_in_memory_are_recorded_as_those_in_a_folder(finished):
    session = in_memory(base())
    for facts in ROUNDS:
        session.edit(facts, author="Ann", reason="it was wrong")
    for ours, theirs in zip(session.rounds, read_rounds(finished[0]), strict=True):
        for name in ("number", "author", "reason", "on_conflict", "facts", "statuses", "settings", "before", "after"):
            assert getattr(ours, name) == getattr(theirs, name)


def test_facts_that_were_not_written_are_told_by_their_status(finished):
    one = max(read_rounds(finished[0]), key=lambda record: len(record.facts))
    assert one.written == list(one.facts)
    for status in ("kept", "failed"):
        assert dataclasses.replace(one, statuses=(status, *one.statuses[1:])).written == list(one.facts[1:])


def test_no_secret_is_written_down(tmp_path):
    opened(tmp_path / "a", base(), api_key="sk-secret").close()
    assert "sk-secret" not in "".join(path.read_text() for path in (tmp_path / "a").iterdir() if path.is_file())
