"""Applying, reverting, saving and composing a patch: exact to the bit, and refused for other models."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from rounds import ROUNDS, same, weights_of
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import tiny_model

import nse_plugin
from nse_plugin import EditPatch, Fact
from nse_plugin.models.gguf.special_tokens import let_add_bos
from nse_plugin.patch.columns import PatchError


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_applied_and_reverted_to_the_bit(kind, dtype, edited, tmp_path):
    session = edited(kind, dtype)
    EditPatch.of(session).save(tmp_path / "x.patch")
    patch, model = EditPatch.load(tmp_path / "x.patch"), tiny_model(kind, dtype)
    base, after = weights_of(model), weights_of(session.model)
    assert patch.verify(model) == "base"
    patch.apply(model)
    assert same(model, after)
    assert patch.verify(model) == patch.verify(session.model) == "applied"
    patch.revert(model)
    assert same(model, base)


def test_what_it_says(patch):
    assert [(one["author"], one["reason"], one["facts"]) for one in patch.rounds] == [
        ("author 1", "reason 1", 1), ("author 2", "reason 2", 2), ("author 3", "reason 3", 1),
    ]  # fmt: skip
    assert [Fact(**record) for record in patch.facts] == [fact for facts in ROUNDS for fact in facts]
    assert patch.hparams["p"] == 0.6
    for layer, norm in patch.norms().items():
        assert norm == pytest.approx(float(patch.change(layer).norm()))
        assert norm > 0


def test_whether_a_bos_stood_before_prompts_is_noted(edited, tmp_path):
    session = edited()
    assert EditPatch.of(session).adds_bos is False
    let_add_bos(session.tokenizer, True)
    EditPatch.of(session).save(tmp_path / "x")
    assert EditPatch.load(tmp_path / "x").adds_bos is True


def test_without_its_facts(patch, tmp_path):
    patch.save(tmp_path / "x.patch", include_facts=False)
    without = EditPatch.load(tmp_path / "x.patch")
    assert without.facts is None
    assert b"France" not in (tmp_path / "x.patch").read_bytes()
    assert without.after == patch.after
    assert without.diff(patch)["facts_only_here"] is None


def test_how_two_differ(edited):
    session = edited()
    first, whole = EditPatch.of(session, 1, 1), EditPatch.of(session)
    found = first.diff(whole)
    assert found["same_base"]
    assert found["facts_only_here"] == []
    assert [fact["subject"] for fact in found["facts_only_there"]] == ["Marie Curie", "Mount Fuji", "Germany"]
    for layer, one in found["layers"].items():
        assert one["columns"] == [len(side.columns[layer].neurons) for side in (first, whole)]
        assert one["distance"] == pytest.approx(float((whole.change(layer) - first.change(layer)).norm()))
    assert not found["same_change"]
    again = whole.diff(EditPatch.of(edited()))
    assert again["same_change"]
    assert all(one["distance"] == 0 for one in again["layers"].values())


def test_a_model_on_the_other_side_of_the_edits_is_told_so(patch):
    model = tiny_model("llama", torch.float32)
    with pytest.raises(PatchError, match="the model does not have these edits"):
        patch.revert(model)
    patch.apply(model)
    with pytest.raises(PatchError, match="the model has these edits already"):
        patch.apply(model)
    first = next(iter(patch.columns.values()))
    model.get_parameter(first.name).data[:, int(first.neurons[0])] += 1
    for step in (patch.revert, patch.apply):
        with pytest.raises(PatchError, match=r"\d+ of \d+ columns of .* are not as they were (before|after) the edit"):
            step(model)


def test_torch_and_safetensors_are_enough(patch, tmp_path):
    patch.save(tmp_path / "x.patch")
    save_file({k: v.clone() for k, v in tiny_model("llama", torch.float32).state_dict().items()}, tmp_path / "model")
    program = """
        import sys
        class Blocked:
            def find_spec(self, name, *_):
                if name.split(".")[0] in ("transformers", "pandas", "easyeditor", "rich", "yaml", "filelock"):
                    raise ImportError(f"{name} is blocked")
        sys.meta_path.insert(0, Blocked())
        import torch
        from safetensors.torch import load_file
        from nse_plugin import EditPatch

        class Model(torch.nn.Module):  # of any class, with parameters of these names
            def __init__(self, weights):
                super().__init__()
                for name, weight in weights.items():
                    *path, last = name.split(".")
                    at = self
                    for part in path:
                        if part not in dict(at.named_children()):
                            at.add_module(part, torch.nn.Module())
                        at = getattr(at, part)
                    at.register_parameter(last, torch.nn.Parameter(weight))

        model, patch = Model(load_file("model")), EditPatch.load("x.patch")
        patch.apply(model)
        print(patch.verify(model))
        patch.revert(model)
        print(patch.verify(model))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(nse_plugin.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["applied", "base"]


def test_a_damaged_file_is_refused_or_harmless(patch, tmp_path):
    """500 mutations: cut off, bits flipped, pieces swapped, bytes replaced."""
    whole = patch.save(tmp_path / "whole").read_bytes()
    draw, refused = random.Random(0), 0
    path = tmp_path / "mutated"
    for number in range(500):
        data = bytearray(whole)
        # the header, a sixth of the file at most, is where most can go wrong
        end = len(data) if number % 2 else min(len(data), 4096)
        a, b = sorted(draw.randrange(end) for _ in range(2))
        match number % 5:
            case 0:
                del data[draw.randrange(len(data)) :]
            case 1 | 2:
                data[a] ^= 1 << draw.randrange(8)
            case 3:
                data[a : a + 8], data[b : b + 8] = data[b : b + 8], data[a : a + 8]
            case 4:
                data[a:b] = bytes(draw.randrange(256) for _ in range(b - a))
        path.write_bytes(data)
        try:
            found = EditPatch.load(path)
        except PatchError:
            refused += 1
            continue
        assert (found.before, found.others, found.facts) == (patch.before, patch.others, patch.facts)
        for layer, one in patch.columns.items():
            assert all(
                torch.equal(getattr(found.columns[layer], p), getattr(one, p)) for p in ("neurons", "old", "new")
            )
    assert refused > 450


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path, patch: None, "cannot be read"),
        (lambda path, patch: path.write_bytes(b"nothing"), "cannot be read"),
        (lambda path, patch: save_file({"a": torch.zeros(2)}, path), "it is no patch: give a file that EditPatch.save"),
        (lambda path, patch: with_format(path, patch, 99), "has format 99, and this version reads 1"),
    ],
)
def test_files_that_are_none(write, said, patch, tmp_path):
    write(tmp_path / "x", patch)
    with pytest.raises(PatchError, match=said):
        EditPatch.load(tmp_path / "x")


def with_format(path, patch, number):
    import hashlib
    import json

    patch.save(path)
    with safe_open(path, "pt") as opened:
        about = json.loads(opened.metadata()["nse_patch"].partition(" ")[2])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    text = json.dumps({**about, "format": number})
    save_file(tensors, path, {"nse_patch": f"{hashlib.sha256(text.encode()).hexdigest()} {text}"})


def test_an_author_whom_a_shell_could_not_decode(edited, tmp_path):
    session = edited()
    session.edit(Fact("The capital of {} is", "Perú", "Rome"), author="J\udcf6rg", reason="an Ümlaut")
    patch = EditPatch.load(EditPatch.of(session).save(tmp_path / "x.patch"))
    assert (patch.rounds[-1]["author"], patch.rounds[-1]["reason"]) == ("J\udcf6rg", "an Ümlaut")
    assert patch.facts[-1]["subject"] == "Perú"


def test_two_that_undo_each_other_make_none(edited):
    patch = EditPatch.of(edited())
    columns = {layer: dataclasses.replace(one, old=one.new, new=one.old) for layer, one in patch.columns.items()}
    back = dataclasses.replace(patch, columns=columns, before=patch.after, after=patch.before)
    with pytest.raises(PatchError, match="the second patch undoes the first one"):
        patch.compose(back)
