"""`nse patch`: from a session's folder to files, and back into models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nse_plugin import EditPatch
from nse_plugin.cli import main


@pytest.fixture
def session(saved, tmp_path, monkeypatch):
    """The folder `session` with two rounds, made by `nse edit`; the saved model's folder."""
    monkeypatch.chdir(tmp_path)
    Path("nse.yaml").write_text(
        "alg_name: NSE\nmodel_name: tiny\ndevice: cpu\nlayers: [1, 2]\nalpha: 0.5\nv_num_grad_steps: 4\n"
        "mom2_n_samples: 8\n"
    )
    for name, target in (("France", "Lyon"), ("Italy", "Rome")):
        fact = ["--fact", "The capital of {} is", name, target]
        main(["edit", "--model", saved, "--session", "session", "--hparams", "nse.yaml", *fact])
    return saved


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
    assert "only there: The capital of {} is | Italy -> Rome" in patch("diff", "1.patch", "whole.patch")

    patch("apply", "whole.patch", "--model", session, "--out", "edited")
    assert whole.verify(model_of("edited")) == "applied"
    ours = Path("edited/config.json").stat().st_mode
    assert {path.stat().st_mode for path in Path("edited").iterdir()} == {ours}  # others may read all of it
    patch("revert", "whole.patch", "--model", "edited", "--out", "again")
    assert whole.verify(model_of("again")) == "base"
    for step in ("overlay", "merge"):
        patch(step, "whole.patch", "--checkpoint", session, "--out", step)
        assert whole.verify(model_of(step)) == "applied"
    patch("to-lora", "whole.patch", "--out", "adapter")
    from peft import PeftModel

    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(model_of(session), "adapter")(input_ids=ids).logits
        assert (adapted - model_of("edited")(input_ids=ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["make", "--session", "nowhere", "--out", "x"], "nowhere"),
        (["make", "--session", "session", "--rounds", "a", "--out", "x"], "--rounds a: give a number, or two"),
        (["make", "--session", "session", "--rounds", "3", "--out", "x"], "There are no rounds 3 to 3"),
        (["show", "nse.yaml"], "nse.yaml cannot be read"),
        (["make", "--session", "session", "--out", "."], ". is a folder: name a file for the patch"),
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
