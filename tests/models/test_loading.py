"""Quantised checkpoints are loaded with plain matrices that have the weights they are served with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_gguf import tiny_llama
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import dequantised

TOKENS = torch.arange(3, 40)[None]


def quantised(folder, config):
    tiny_llama().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def test_torchao(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    model = quantised(tmp_path, TorchAoConfig(quantization.Int8WeightOnlyConfig()))
    expected = logits(model)
    matrix = Layout.of(dequantised(model, torch.float32)).output_matrix(1)  # which takes plain matrices alone
    assert type(matrix.weight.data) is Tensor
    assert (logits(model) - expected).abs().max() < 1e-4
    assert (logits(tiny_llama()) - expected).abs().max() > 1e-2
    assert not hasattr(model.config, "quantization_config")


def test_bitsandbytes(tmp_path):
    functional = pytest.importorskip("bitsandbytes.functional")
    from transformers import BitsAndBytesConfig

    model = quantised(tmp_path, BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"))
    weight = model.model.layers[1].mlp.down_proj.weight
    expected = functional.dequantize_4bit(weight.data, weight.quant_state)
    assert torch.equal(Layout.of(dequantised(model, torch.float32)).output_matrix(1).matrix, expected)


def test_what_cannot_be_undone_is_refused():
    class GPTQ(nn.Linear):
        hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(quant_method="gptq"))

        def dequantize(self, dtype):
            raise NotImplementedError

    with pytest.raises(ValueError, match="quantised by gptq, which transformers cannot undo: edit a GGUF file"):
        dequantised(GPTQ(2, 2), torch.float32)
