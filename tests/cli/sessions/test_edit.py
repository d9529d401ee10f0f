"""`nse edit`: rounds with their author and reason, conflicts, a dry run that writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nse_plugin.session.folder.opening import read_rounds


def test_rounds_are_in_the_folder(edited):
    first, second = read_rounds("session")
    assert (first.author, first.reason, second.author, second.reason) == ("ann", "first", "bob", None)
    assert [fact.case_id for one in (first, second) for fact in one.facts] == ["lyon", 7, 2]


def test_the_exit_code_says_whether_every_fact_is_said(run):
    code, said = run("edit", "--hparams", "nse.yaml", "--facts", "facts.json", "--limit", 1, "--json")
    (made,) = json.loads(said)
    assert made["number"] == 1
    assert code == (0 if all(fact["is_said"] for fact in made["facts"]) else 3)
    assert made["facts"][0]["target"] == "Lyon"


def test_facts_on_the_command_line_and_so_many_at_a_time(run):
    fact = ("--fact", "The capital of {} is", "France", "Rome")
    _, said = run("edit", "--hparams", "nse.yaml", *fact, "--fact", "{} stands in", "Lyon", "Japan", "--round", 1)
    assert "round 1" in said
    assert "The capital of France is" in said
    assert [len(one.facts) for one in read_rounds("session")] == [1, 1]


@pytest.mark.parametrize("choice", ["replace", "keep", "error"])
def test_a_conflict(choice, edited, capsys):
    code, _ = edited("edit", "--fact", "The capital of {} is", "France", "Rome", "--on-conflict", choice)
    rounds = read_rounds("session")
    if choice == "replace":
        assert rounds[-1].facts[0].target_new == "Rome"
    else:
        assert len(rounds) == 2
        assert code == (3 if choice == "keep" else 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--facts", "nowhere.json"), "nowhere.json cannot be read"),
        (("--facts", "facts.json", "--round", "0"), "--round 0: give a number above 0"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, words, saved, capsys):
    from nse_plugin.cli import main

    assert main(["edit", "--model", saved, "--session", "session", *arguments]) == 1
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["edit", "--model", saved, "--session", "session"])
    assert "give --facts FILE, or --fact PROMPT SUBJECT TARGET" in capsys.readouterr().err
    assert not Path("session").exists()


def test_facts_that_contradict_each_other_begin_no_session(run):
    capital = ("--fact", "The capital of {} is", "France")
    assert run("edit", "--hparams", "nse.yaml", *capital, "Lyon", *capital, "Rome")[0] == 1
    assert not Path("session").exists()


def test_a_round_of_which_all_is_kept_is_no_round(edited):
    fact = ("--fact", "The capital of {} is", "France", "Rome", "--on-conflict", "keep")
    code, said = edited("edit", *fact, "--json")
    [made] = json.loads(said)
    assert (code, made["number"], made["id"]) == (3, None, None)
    assert [(one["target"], one["status"]) for one in made["facts"]] == [("Rome", "kept")]
    assert "no round: nothing was written" in edited("edit", *fact)[1]
