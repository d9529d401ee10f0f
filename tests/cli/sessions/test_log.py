"""`nse log`, without the model."""

from __future__ import annotations

import json

from nse_plugin.session.folder.opening import read_rounds


def test_rounds_and_facts(edited):
    _, said = edited("log", "--json", model=False)
    rounds = json.loads(said)
    assert [(one["number"], one["author"], one["facts"][0]["case_id"]) for one in rounds] == [
        (1, "ann", "lyon"),
        (2, "bob", 7),
    ]
    assert [one["id"] for one in rounds] == [one.id for one in read_rounds("session")]
    _, said = edited("log", "--facts", model=False)
    for words in ("ann", "bob", "first", "Marie Curie was born in", "2 rounds, 3 facts."):
        assert words in said
