"""The weights of a model by name."""

from __future__ import annotations

import pytest
import torch
from rounds import same, weights_of
from safetensors.torch import load_file
from tiny import tiny_model
from torch import nn

from nse_plugin import EditPatch
from nse_plugin.patch.columns import PatchError


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])  # whose head is the embedding
def test_tied_weights_may_be_there_once_as_in_a_checkpoint_s_file(kind, edited, tmp_path):
    patch = EditPatch.of(edited(kind))
    tiny_model(kind, torch.float32).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in tensors
    prefix = "transformer." if kind == "gpt2" and "wte.weight" in tensors else ""
    model = nn.Module()
    for name, weight in tensors.items():
        *path, last = f"{prefix}{name}".split(".")
        owner = model
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        owner.register_parameter(last, nn.Parameter(weight))
    assert patch.verify(model) == "base"
    patch.apply(model)
    assert patch.verify(model) == "applied"


def test_any_other_model_is_refused_untouched(patch, edited):
    other = tiny_model("llama", torch.float32)
    other.model.layers[3].mlp.up_proj.weight.data[0, 0] += 1
    before = weights_of(other)
    for use, model, said in (
        (patch.apply, other, "other weights of the model are not"),
        (patch.verify, other, "other weights of the model are not"),
        (patch.revert, tiny_model("llama", torch.float32), "the model does not have these edits"),
        (patch.apply, edited().model, "the model has these edits already"),
        (patch.apply, tiny_model("llama", torch.bfloat16), "load the model it was made for, in that dtype"),
        (patch.apply, tiny_model("gpt2", torch.float32), "has no parameter model.layers.1"),
    ):
        with pytest.raises(PatchError, match=said):
            use(model)
    assert same(other, before)
