"""`nse check`: which facts hold, and which were replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nse_plugin import EditSession, Fact
from nse_plugin.cli import main
from nse_plugin.models.loading import load


def test_every_fact_has_a_row(edited):
    code, said = edited("check", "--json")
    rows = json.loads(said)
    assert [row["case_id"] for row in rows] == ["lyon", 7, 2]
    assert [row["round"] for row in rows] == [1, 2, 2]
    assert code == (0 if all(row["holds"] for row in rows) else 3)
    _, said = edited("check")
    assert f"{sum(row['holds'] for row in rows)} of 3 facts hold." in said


def test_a_replaced_fact_is_not_lost(edited):
    edited("edit", "--fact", "The capital of {} is", "France", "Rome")
    code, said = edited("check", "--json")
    rows = json.loads(said)
    assert [row["replaced"] for row in rows] == [True, False, False, False]
    assert rows[0]["overwritten_by"] == "3.1"
    assert code == (0 if all(row["holds"] for row in rows[1:]) else 3)


def test_a_fact_that_was_kept_out_replaces_nothing(edited):
    edited("edit", "--fact", "The capital of {} is", "France", "Rome", "--on-conflict", "keep")
    rows = json.loads(edited("check", "--json")[1])
    assert [row["replaced"] for row in rows] == [False, False, False]


@pytest.fixture
def asked(monkeypatch):
    """The facts that llama.cpp is asked for, which knows all of them."""
    facts: list[Fact] = []

    def check_served(file, given, adapter):
        assert (file, adapter) == ("model.gguf", "edits.gguf")
        facts.extend(given)
        return [
            {"case_id": one.case_id, "prompt": one.text, "target": one.target_new, "answer": "", "holds": True}
            for one in given
        ]

    monkeypatch.setattr("nse_plugin.patch.served.check.check_served", check_served)
    return facts


SERVED = ("check", "--served", "model.gguf", "--adapter", "edits.gguf")


def test_served_is_asked_for_what_stands(edited, asked):
    """Lyon was replaced by Rome."""
    edited("edit", "--fact", "The capital of {} is", "France", "Rome")
    code, said = edited(*SERVED, model=False)
    assert [one.target_new for one in asked] == ["Rome", "Rome", "Germany"]
    assert code == 0
    assert "3 of 3 facts hold." in said


def test_served_is_not_asked_for_a_fact_that_was_kept_out(edited, asked):
    edited("edit", "--fact", "The capital of {} is", "France", "Rome", "--on-conflict", "keep")
    edited(*SERVED, model=False)
    assert [one.target_new for one in asked] == ["Lyon", "Rome", "Germany"]


def test_served_is_not_asked_for_a_fact_that_was_not_written(edited, asked, saved):
    """Its value was not finite, and what stood before still stands."""
    model, tokenizer = load(saved)
    with EditSession.open("session", model, tokenizer) as session:
        facts = [Fact("The capital of {} is", "France", "Rome"), Fact("{} is", "Lyon", "Rome")]
        values = session.values(facts)
        values[0] = float("nan")
        assert session.edit_with_values(facts, values).statuses[0] == "failed"
    edited(*SERVED, model=False)
    assert [(one.subject, one.target_new) for one in asked] == [
        ("France", "Lyon"), ("Marie Curie", "Rome"), ("Mount Fuji", "Germany"), ("Lyon", "Rome"),
    ]  # fmt: skip


def test_a_model_is_needed(edited, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--session", "session"])
    assert "give --model, or --served FILE" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["log", "check"])
def test_a_folder_that_is_none(command, run, capsys, saved):
    model = ["--model", saved] if command == "check" else []
    assert main([command, *model, "--session", "nowhere"]) == 1
    assert "nowhere holds no session" in capsys.readouterr().err
    assert not Path("nowhere").exists()
