"""`nse retire`."""

from __future__ import annotations

from nse_plugin.cli import main
from nse_plugin.session.folder.opening import read_rounds


def test_a_retired_fact_was_never_written(edited, saved, capsys):
    _, said = edited("retire", "7")
    assert "1 fact retired; 1 round made again, 2 of 2 stand." in said
    assert [fact.case_id for one in read_rounds("session") for fact in one.facts] == ["lyon", 2]
    assert main(["retire", "--model", saved, "--session", "session", "nobody"]) == 1
    assert "'nobody'" in capsys.readouterr().err
