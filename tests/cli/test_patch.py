"""`nse patch`: from a session's folder to files, and back into models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import tiny_tokenizer
from transformers import AutoModelForCausalLM

from nse_plugin import EditPatch
from nse_plugin.cli import main


def model_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def test_from_make_to_revert(session, capsys):
    def patch(*arguments):
        code = main(["patch", *arguments])
        out = capsys.readouterr()
        assert code == 0, out.err
        return out.out

    patch("make", "--session", "session", "--out", "whole.patch")
    patch("make", "--session", "session", "--rounds", "1", "--out", "1.patch")
    patch("make", "--session", "session", "--rounds", "2:", "--no-facts", "--out", "2.patch")
    patch("compose", "1.patch", "2.patch", "--out", "both.patch")
    whole, both = EditPatch.load("whole.patch"), EditPatch.load("both.patch")
    assert (whole.before, whole.after, whole.rounds) == (both.before, both.after, both.rounds)
    assert EditPatch.load("2.patch").facts is None

    shown = json.loads(patch("show", "whole.patch", "--json"))
    assert [fact["subject"] for fact in shown["facts"]] == ["France", "Italy"]
    assert "The capital of {} is" in patch("show", "whole.patch")
    assert "left out" in patch("show", "2.patch")
    found = json.loads(patch("diff", "1.patch", "whole.patch", "--json"))
    assert [fact["subject"] for fact in found["facts_only_there"]] == ["Italy"]
    said = patch("diff", "1.patch", "whole.patch")
    assert "only there: The capital of {} is | Italy -> Rome" in said
    assert "different changes" in said
    assert not found["same_change"]
    assert "the same change" in patch("diff", "both.patch", "whole.patch")
    assert json.loads(patch("diff", "both.patch", "whole.patch", "--json"))["same_change"]

    patch("apply", "whole.patch", "--model", session, "--out", "edited")
    assert whole.verify(model_of("edited")) == "applied"
    ours = Path("edited/config.json").stat().st_mode
    assert {path.stat().st_mode for path in Path("edited").iterdir()} == {ours}  # others may read all of it
    patch("revert", "whole.patch", "--model", "edited", "--out", "again")
    assert whole.verify(model_of("again")) == "base"


def test_which_side_a_model_is_on(session, capsys):
    main(["patch", "make", "--session", "session", "--out", "x.patch"])
    main(["patch", "apply", "x.patch", "--model", session, "--out", "edited"])
    other = model_of(session)
    other.model.norm.weight.data += 1
    other.save_pretrained("other")
    tiny_tokenizer().save_pretrained("other")
    for model, code, words in (
        ("edited", 0, "edited has the edits of x.patch."),
        (session, 1, "is unedited: it does not have the edits of x.patch."),
        ("other", 1, "other is neither the unedited model nor the one with the edits of x.patch: the edited columns"),
    ):
        capsys.readouterr()
        assert main(["patch", "verify", "x.patch", "--model", model]) == code
        said = capsys.readouterr()
        assert words in " ".join((said.out, said.err))
    assert main(["patch", "revert", "x.patch", "--model", session, "--out", "again"]) == 1
    assert "the model does not have these edits" in capsys.readouterr().err
    assert not Path("again").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["make", "--session", "session"],
        ["apply", "x.patch", "--model", "nowhere"],
        ["revert", "x.patch", "--model", "nowhere"],
        ["compose", "x.patch", "y.patch"],
        ["to-lora", "x.patch"],
        ["to-gguf", "x.patch", "--base", "facts.csv"],
        ["to-gguf", "x.patch", "--base", "facts.csv", "--whole"],
        ["overlay", "x.patch", "--checkpoint", "nowhere"],
        ["merge", "x.patch", "--checkpoint", "nowhere"],
    ],
    ids=lambda words: "-".join((words[0], *words[4:])),
)
def test_nothing_is_overwritten(arguments, tmp_path, monkeypatch, capsys):
    """It is refused before anything is loaded: the files named do not exist."""
    monkeypatch.chdir(tmp_path)
    Path("facts.csv").write_text("prompt,subject\n")
    Path("folder").mkdir()
    Path("dangling").symlink_to("gone")
    for out in ("facts.csv", "folder", "dangling"):
        assert main(["patch", *arguments, "--out", out]) == 1
        assert capsys.readouterr().err == f"nse: --out {out} is there already: name another.\n"
    assert Path("facts.csv").read_text() == "prompt,subject\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "facts.csv", "folder"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["make", "--session", "nowhere", "--out", "x"], "nowhere"),
        (["make", "--session", "session", "--rounds", "a", "--out", "x"], "--rounds a: give a number, or two"),
        (["make", "--session", "session", "--rounds", "3", "--out", "x"], "There are no rounds 3 to 3"),
        (["show", "nse.yaml"], "nse.yaml cannot be read"),
        (["make", "--session", "session", "--out", "."], "--out . is there already: name another"),
        (["apply", "nse.yaml", "--model", "x", "--out", "nse.yaml/x"], "nse.yaml is a file; name another folder"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, session, capsys):
    capsys.readouterr()
    assert main(["patch", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not Path("x").exists()
