"""`nse retire`."""

from __future__ import annotations

import json
from pathlib import Path

from nse_plugin.cli import main
from nse_plugin.session.folder.opening import read_rounds


def test_a_retired_fact_was_never_written(edited, saved, capsys):
    _, said = edited("retire", "7")
    assert "retired: Marie Curie was born in -> Rome (7)\n1 fact retired; 1 round made again, 2 of 2 rounds" in said
    assert [fact.case_id for one in read_rounds("session") for fact in one.facts] == ["lyon", 2]
    assert main(["retire", "--model", saved, "--session", "session", "nobody"]) == 1
    assert "'nobody'" in capsys.readouterr().err


def test_what_was_kept_out_and_is_written_now_is_named(edited):
    nice = ("--fact", "The capital of {} is", "France", "Rome")
    edited("edit", *nice, "--fact", "{} stands in", "Lyon", "Italy", "--on-conflict", "keep")
    assert read_rounds("session")[-1].statuses[0] == "kept"
    _, said = edited("retire", "lyon")
    assert said.splitlines() == [
        "retired: The capital of France is -> Lyon (lyon)",
        "written now, as what it conflicted with is gone: The capital of France is -> Rome (3.1)",
        "1 fact retired; 2 rounds made again, 2 of 3 rounds left.",
    ]


def test_facts_of_one_case_id_are_all_named(edited):
    edited("edit", "--facts", "facts.json", "--limit", "1")  # "lyon" once more
    _, said = edited("retire", "lyon")
    assert said.count("retired: The capital of France is -> Lyon (lyon)\n") == 1
    assert [len(one.facts) for one in read_rounds("session")] == [2]


def test_a_new_fact_has_no_retired_round_s_number(edited):
    """Rounds are numbered anew when one is gone, and the others keep their facts' case_ids."""
    for name in ("Lyon", "Rome"):
        edited("edit", "--fact", "{} lies in", name, "Japan")
    assert [one.facts[0].case_id for one in read_rounds("session")[2:]] == ["3.1", "4.1"]
    edited("retire", "3.1")
    edited("edit", "--fact", "{} lies in", "Germany", "Japan")
    assert [one.facts[0].case_id for one in read_rounds("session")[2:]] == ["4.1", "5.1"]


def test_a_correction_is_retired_alone(edited):
    """Although its file gave it the case_id of what it corrects."""
    [first, *_] = json.loads(Path("facts.json").read_text())
    Path("correction.json").write_text(json.dumps([{**first, "target_new": "Rome"}]))
    edited("edit", "--facts", "correction.json")
    assert read_rounds("session")[-1].facts[0].case_id == "3.1"
    _, said = edited("retire", "3.1")
    assert said.splitlines()[0] == "retired: The capital of France is -> Rome (3.1)"
    assert [fact.target_new for fact in read_rounds("session")[0].facts] == ["Lyon"]
