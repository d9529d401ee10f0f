"""The exports of `nse patch`: adapters and checkpoints of a session's edits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nse_plugin import EditPatch
from nse_plugin.cli import main
from nse_plugin.models.embedded import FOLDER


@pytest.fixture
def patched(session, capsys):
    """The file `x.patch` of a session with two rounds; the base model's folder."""
    main(["patch", "make", "--session", "session", "--out", "x.patch"])
    capsys.readouterr()
    return session


def run(capsys, *arguments):
    code = main(["patch", *arguments])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def test_the_edited_model_in_peft(patched, capsys):
    from peft import PeftModel

    run(capsys, "to-lora", "x.patch", "--out", "adapter")
    edited = AutoModelForCausalLM.from_pretrained(patched)
    EditPatch.load("x.patch").apply(edited)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(patched)
        adapted = PeftModel.from_pretrained(base, "adapter")(input_ids=ids).logits
        assert (adapted - edited(input_ids=ids).logits).abs().max() < 1e-4


@pytest.mark.parametrize("step", ["overlay", "merge"])
@pytest.mark.parametrize("is_embedded", [False, True])
def test_edited_checkpoints(step, is_embedded, patched, tmp_path, capsys, monkeypatch):
    """`embedded`: the model converted into the cache, here a tiny one."""
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / FOLDER).symlink_to(patched)
    run(capsys, step, "x.patch", "--checkpoint", "embedded" if is_embedded else patched, "--out", "edited")
    assert EditPatch.load("x.patch").verify(AutoModelForCausalLM.from_pretrained("edited")) == "applied"


def test_what_a_lower_rank_loses_is_said(patched, capsys, caplog):
    said = run(capsys, "to-lora", "x.patch", "--rank", "1", "--model", patched, "--out", "thin")
    assert re.search(r"^[0-2] of 2 facts still hold at rank 1, and [0-2] with the whole change", said, re.MULTILINE)
    assert json.loads(Path("thin/adapter_config.json").read_text())["r"] == 1
    assert re.search(r"At rank 1 the adapter keeps \d+\.\d% of the squared norm", caplog.text)
    assert "still hold" not in run(capsys, "to-lora", "x.patch", "--rank", "1", "--out", "again")
    one, other = (load_file(f"{folder}/adapter_model.safetensors") for folder in ("thin", "again"))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["to-lora", "x.patch", "--model", "m"], "--model m: it counts the facts that hold at a --rank; give both"),
        (["to-gguf", "x.patch", "--base", "b", "--whole", "--rank", "2"], "--rank 2: an adapter has one, and --whole"),
        (["to-lora", "x.patch", "--rank", "0"], "rank = 0 cannot be used"),
        (["merge", "x.patch", "--checkpoint", "nowhere"], "nowhere is no folder"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, patched, capsys):
    assert main(["patch", *arguments, "--out", "new"]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not Path("new").exists()
