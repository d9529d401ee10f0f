"""Opening a session, shared by all commands that work on one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from tiny_sessions import base, hparams, in_memory, rounds_of

from nse_plugin.cli.sessions.opening import ROUND_COLUMNS, opened, row_of
from nse_plugin.session import SessionError


@pytest.fixture
def arguments(saved, tmp_path):
    return argparse.Namespace(session=str(tmp_path / "session"), model=saved, dtype="float32", device="cpu")


def test_a_session_is_begun_and_opened_again(arguments):
    with opened(arguments, hparams()) as session:
        assert Path(arguments.session, "session.json").is_file()
        assert session.hparams.alpha == 0.5
    with opened(arguments) as again:
        assert again.rounds == []
    again.close()


def test_one_that_is_not_to_be_kept_is_in_memory(arguments):
    with opened(arguments, hparams(), keep=False) as session:
        assert session.rounds == []
    assert not Path(arguments.session).exists()


def test_without_hyperparameters_it_must_be_there(arguments):
    with pytest.raises(SessionError, match="holds no session"), opened(arguments):
        pass


def test_a_round_as_tables_have_it():
    session = in_memory(base())
    [facts] = rounds_of(1)
    session.edit(facts, author="ann", reason="first")
    [record] = session.rounds
    row = row_of(record)
    assert row.keys() == ROUND_COLUMNS.keys()
    assert (row["number"], row["author"], row["reason"], row["facts"]) == (1, "ann", "first", 2)
    assert record.id.startswith(row["id"])
    assert row["done"] == list(record.statuses).count("done")
    assert row["said"] == record.report.frame["is_said"].sum()
