"""Edited checkpoints: unchanged files are linked, and changed weights are exact."""

from __future__ import annotations

import json

import pytest
import torch
from rounds import same, weights_of
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from nse_plugin import EditPatch
from nse_plugin.patch.columns import PatchError


@pytest.mark.parametrize("how", ["to_overlay", "merge"])
@pytest.mark.parametrize(("kind", "size"), [("llama", "1GB"), ("gpt2", "1GB"), ("llama", "40KB")])
def test_the_edited_model_from_its_folder(how, kind, size, edited, tmp_path):
    session = edited(kind)
    checkpoint, folder = tmp_path / "base", tmp_path / "edited"
    tiny_model(kind, torch.float32).save_pretrained(checkpoint, max_shard_size=size)
    getattr(EditPatch.of(session), how)(checkpoint, folder)
    assert same(AutoModelForCausalLM.from_pretrained(folder), weights_of(session.model))
    names = {path.name for path in checkpoint.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    shared = {name for name in names if (folder / name).samefile(checkpoint / name)}
    if how == "merge":
        assert shared == set()
    elif size == "40KB":
        assert 2 < len(shared) < len(names)
        changed = json.loads((checkpoint / "model.safetensors.index.json").read_text())["weight_map"]
        assert not shared & {changed[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in (1, 2)}
    else:
        assert shared == names - {"model.safetensors"}


def test_what_is_not_the_base_is_refused(edited, tmp_path):
    patch = EditPatch.of(edited())
    checkpoint = tmp_path / "base"
    tiny_model("llama", torch.float32).save_pretrained(checkpoint)
    folder = patch.merge(checkpoint, tmp_path / "edited")
    for source, target, said in (
        (folder, tmp_path / "new", "not as they were before the edit"),
        (checkpoint, folder, "is there already"),
        (tmp_path / "nowhere", tmp_path / "new", "is no folder"),
    ):
        with pytest.raises(PatchError, match=said):
            patch.merge(source, target)
    tiny_model("gpt2", torch.float32).save_pretrained(tmp_path / "other")
    with pytest.raises(PatchError, match="has no safetensors file with model.layers.1"):
        patch.merge(tmp_path / "other", tmp_path / "new")
    tensors = load_file(checkpoint / "model.safetensors")
    kept = sorted(set(range(40)) - set(patch.columns[1].neurons.tolist()))
    tensors[patch.columns[1].name][:, kept[0]] += 1
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(PatchError, match="is not the base's: give the checkpoint that was edited"):
        patch.merge(checkpoint, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_other_weights_that_differ_are_warned_of(kind, edited, tmp_path, caplog):
    """As those of a model whose attention was fine-tuned."""
    patch, model = EditPatch.of(edited(kind)), tiny_model(kind, torch.float32)
    model.save_pretrained(tmp_path / "base")
    patch.to_overlay(tmp_path / "base", tmp_path / "edited")
    assert "other weights" not in caplog.text
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "attn" in name).add_(0.1)
    model.save_pretrained(tmp_path / "tuned")
    patch.to_overlay(tmp_path / "tuned", tmp_path / "both")
    assert f"{tmp_path / 'tuned'} has other weights, beside the edited ones" in caplog.text


def test_a_folder_within_the_checkpoint_is_refused(edited, tmp_path):
    tiny_model("llama", torch.float32).save_pretrained(tmp_path / "base")
    with pytest.raises(PatchError, match="is within the checkpoint's folder"):
        EditPatch.of(edited()).merge(tmp_path / "base", tmp_path / "base" / "edited")
