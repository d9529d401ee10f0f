"""Models loaded from GGUF files have the weights and the BOS behaviour of llama.cpp."""

from __future__ import annotations

import pytest
import torch
from tiny_gguf import tiny_llama, write_gguf

from nse_plugin.experiments.plan.model import model_config, model_tokenizer
from nse_plugin.models.gguf.file import GGUFError, load_gguf
from nse_plugin.models.gguf.special_tokens import adds_bos
from nse_plugin.models.loading import load

gguf = pytest.importorskip("gguf")
TOKENS = torch.arange(3, 40)[None]


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])  # read by us, and by transformers
@pytest.mark.parametrize("bos", [True, False])
def test_weights_and_bos_are_the_files(pre, bos, tmp_path):
    expected = tiny_llama()
    model, tokenizer = load(str(write_gguf(tmp_path / "tiny.gguf", expected, pre=pre, adds_bos=bos)))
    assert (logits(model) - logits(expected)).abs().max() < 1e-5
    assert model.config._name_or_path == "tiny.gguf"
    assert not model.training
    assert adds_bos(tokenizer) is bos
    plain = tokenizer("The capital of France is Paris", add_special_tokens=False)["input_ids"]
    assert tokenizer("The capital of France is Paris")["input_ids"] == [0] * bos + plain
    assert tokenizer.decode(plain) == "The capital of France is Paris"


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_the_configuration_and_the_tokenizer_without_the_weights(pre, tmp_path):
    file = str(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), pre=pre, adds_bos=True))
    config, (model, tokenizer) = model_config(file), load(file)
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        assert getattr(config, name) == getattr(model.config, name)
    assert model_tokenizer(file)("a town")["input_ids"] == tokenizer("a town")["input_ids"]


def test_weights_are_the_quantised_ones(tmp_path):
    model, _ = load_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_llama(), "Q4_0"))
    exact = dict(tiny_llama().named_parameters())
    for name, parameter in model.named_parameters():
        weight = exact[name].detach()
        if "down_proj" in name:
            kind = gguf.GGMLQuantizationType.Q4_0
            weight = torch.tensor(gguf.dequantize(gguf.quantize(weight.numpy(), kind), kind))
            assert torch.equal(parameter, weight)
            assert not torch.equal(parameter, exact[name])


def test_in_another_dtype(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    assert {parameter.dtype for parameter in load(str(file), "bfloat16")[0].parameters()} == {torch.bfloat16}


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    for name in ("x.gguf", "nowhere.gguf"):
        with pytest.raises(GGUFError, match=f"{name} cannot be read as GGUF"):
            load_gguf(tmp_path / name)
    writer = gguf.GGUFWriter(str(tmp_path / "adapter.gguf"), "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(GGUFError, match=r"adapter\.gguf holds no language model \(general\.type: adapter\)"):
        load_gguf(tmp_path / "adapter.gguf")
