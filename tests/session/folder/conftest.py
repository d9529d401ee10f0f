from __future__ import annotations

import shutil

import pytest
from tiny_sessions import base, edited, opened, rounds_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a session of five rounds, and the edited matrices before the first and after each round."""
    folder = tmp_path_factory.mktemp("session") / "five"
    model = base()
    with opened(folder, model) as session:
        after = [edited(model)]
        for facts in rounds_of(5):
            session.edit(facts, author="Ann", reason="it was wrong")
            after.append(edited(model))
    return folder, after


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the folder of `finished`."""
    return shutil.copytree(finished[0], tmp_path / "copy")
