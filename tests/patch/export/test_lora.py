"""Adapters in PEFT give the logits of the edited model, merged or not, and no tensor is lost silently."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer

from nse_plugin import EditPatch
from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.export.lora import check_lora

TOKENS = torch.arange(3, 40)[None]


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_base_and_adapter_are_the_edited_model(kind, edited, tmp_path):
    session = edited(kind)
    expected = logits(session.model)
    assert (expected - logits(tiny_model(kind, torch.float32))).abs().max() > 1e-2
    folder = EditPatch.of(session).to_lora(tmp_path / "adapter")
    base = tiny_model(kind, torch.float32)
    check_lora(base, folder)
    wrapped = PeftModel.from_pretrained(base, folder)
    assert (logits(wrapped) - expected).abs().max() < 1e-5
    check_lora(wrapped, folder)
    assert (logits(wrapped.merge_and_unload()) - expected).abs().max() < 1e-5


def test_adapters_of_two_rounds_take_turns(edited, tmp_path):
    session = edited()
    whole = EditPatch.of(session)
    EditPatch.of(session, 1, 1).to_lora(tmp_path / "first")
    whole.to_lora(tmp_path / "whole")
    wrapped = PeftModel.from_pretrained(tiny_model("llama", torch.float32), tmp_path / "first", adapter_name="first")
    wrapped.load_adapter(tmp_path / "whole", adapter_name="whole")
    session.rollback(2)
    after_first = logits(session.model)
    assert (logits(wrapped) - after_first).abs().max() < 1e-5
    wrapped.set_adapter("whole")
    model = tiny_model("llama", torch.float32)
    whole.apply(model)
    assert (logits(wrapped) - logits(model)).abs().max() < 1e-5


def test_what_peft_would_drop_is_refused(patch, tmp_path):
    folder = patch.to_lora(tmp_path / "adapter")
    base = tiny_model("llama", torch.float32)
    del base.model.layers[2:]
    with pytest.raises(PatchError, match=r"changes model\.layers\.2\.mlp\.down_proj, which this model has not"):
        check_lora(base, folder)
    with pytest.raises(PatchError, match="which this model has not"):
        check_lora(tiny_model("gpt2", torch.float32), folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    narrower = {**config, "target_modules": config["target_modules"][:1]}
    (folder / "adapter_config.json").write_text(json.dumps(narrower))
    with pytest.raises(PatchError, match="which its configuration does not name"):
        check_lora(tiny_model("llama", torch.float32), folder)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop("base_model.model.model.layers.2.mlp.down_proj.lora_B.weight")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(PatchError, match="has no base_model.*lora_B"):
        check_lora(tiny_model("llama", torch.float32), folder)


def test_served_by_transformers_alone(edited, tmp_path):
    session = edited()
    base = tmp_path / "base"
    tiny_model("llama", torch.float32).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    folder = EditPatch.of(session).to_lora(tmp_path / "adapter")
    model.load_adapter(str(folder))
    assert (logits(model) - logits(session.model)).abs().max() < 1e-5
