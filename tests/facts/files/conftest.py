from __future__ import annotations

import json

import pytest


@pytest.fixture
def written(tmp_path):
    """A function that writes records, or a text unchanged, into a file of the given name and returns its path."""

    def write(content, name="facts.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write
