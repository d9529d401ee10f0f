"""Finding the parts of a model by its structure."""

from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import LAYERS, D, F, tiny_model
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin.models.layout import Layout, LayoutError

WRITERS = {
    "llama": "model.layers.{}.mlp.down_proj",
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "gptj": "transformer.h.{}.mlp.fc_out",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "qwen3": "model.layers.{}.mlp.down_proj",
    "mistral": "model.layers.{}.mlp.down_proj",
    "gemma2": "model.layers.{}.mlp.down_proj",
    "gemma3_text": "model.layers.{}.mlp.down_proj",
    "phi": "model.layers.{}.mlp.fc2",
}


def test_the_output_matrix_is_found_by_structure(model, architecture):
    layout = Layout.of(model)
    assert len(layout.layers) == LAYERS
    assert (layout.hidden_size, layout.max_positions) == (D, 64)
    for layer, matrix in layout.output_matrices([0, LAYERS - 1]).items():
        assert matrix.name == WRITERS[architecture].format(layer) + ".weight"
        assert matrix.weight is model.get_parameter(matrix.name)
        assert matrix.matrix.shape == (D, F)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_name_gives_the_same_matrix(architecture):
    model = tiny_model(architecture)
    named = Layout.of(model, WRITERS[architecture]).output_matrix(2)
    assert named == Layout.of(model).output_matrix(2)


@pytest.mark.parametrize("layer", [-1, LAYERS, 99])
def test_a_layer_out_of_range(llama, layer):
    with pytest.raises(LayoutError, match=rf"layers.*{layer}.*out of range.*0 to {LAYERS - 1}"):
        Layout.of(llama).output_matrix(layer)


def test_a_model_without_decoder_layers(llama):
    llama.model.layers = nn.ModuleList()
    with pytest.raises(LayoutError, match="LlamaForCausalLM has no list of 4 decoder layers"):
        Layout.of(llama)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_quantised_weights(llama, dtype):
    """bitsandbytes keeps a Linear with an integer weight; in 4 bits it is a column of bytes."""
    shape = (D, F) if dtype == torch.int8 else (D * F // 2, 1)
    llama.model.layers[1].mlp.down_proj.weight = nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)
    with pytest.raises(LayoutError, match=rf"layers.1.mlp.down_proj.weight is {dtype} \(quantised\).*bfloat16"):
        Layout.of(llama).output_matrix(1)
    assert Layout.of(llama).output_matrix(0)


def test_several_candidates_need_a_name(llama):
    llama.model.layers[1].mlp.second_proj = nn.Linear(F + 1, D, dtype=torch.float64)
    names = r"one of model.layers.{}.mlp.down_proj, model.layers.{}.mlp.second_proj\.$"
    with pytest.raises(
        LayoutError, match=rf"Layer 1 \(LlamaDecoderLayer\) has 2 matrices.*rewrite_module_tmp, {names}"
    ):
        Layout.of(llama).output_matrix(1)
    named = Layout.of(llama, "model.layers.{}.mlp.second_proj").output_matrix(1)
    assert named.matrix.shape == (D, F + 1)


def test_no_candidate_needs_a_name(llama):
    del llama.model.layers[1].mlp.down_proj
    with pytest.raises(LayoutError, match=r"Layer 1 .* no MLP output matrix.*rewrite_module_tmp"):
        Layout.of(llama).output_matrix(1)


@pytest.mark.parametrize(
    ("template", "reason"), [("model.layers.{}.mlp.c_proj", "no module"), ("model.layers.{}.mlp", "LlamaMLP")]
)
def test_a_name_that_does_not_fit(llama, template, reason):
    with pytest.raises(LayoutError, match=rf"rewrite_module_tmp.*{reason}"):
        Layout.of(llama, template).output_matrix(1)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("model.layers.{}.self_attn.q_proj", "a part of attention"),
        ("model.layers.{}.self_attn.k_proj", "a part of attention"),
        ("model.layers.{}.self_attn.o_proj", "a part of attention"),
        ("model.layers.{}.mlp.up_proj", f"gives {F} numbers where the hidden size is {D}"),
        ("model.layers.{}.mlp.gate_proj", f"gives {F} numbers where the hidden size is {D}"),
        ("lm_head", "not a part of layer 1"),
    ],
)
def test_a_name_of_something_that_is_no_mlp_output(llama, template, reason):
    with pytest.raises(LayoutError, match=rf"rewrite_module_tmp names .*{reason}.*name the matrix that maps an MLP's"):
        Layout.of(llama, template).output_matrix(1)


def test_the_last_layer_has_nothing_above_it(model):
    layout = Layout.of(model)
    for layers in ([LAYERS - 1], [1, LAYERS - 1]):
        with pytest.raises(LayoutError, match=rf"ends with the model's last layer.*end at layer {LAYERS - 2} or below"):
            layout.edited_matrices(layers)
    assert list(layout.edited_matrices([1, LAYERS - 2])) == [1, LAYERS - 2]


def same_module(model, layer, other):
    model.model.layers[layer].mlp.down_proj = model.model.layers[other].mlp.down_proj


def same_parameter(model, layer, other):
    model.model.layers[layer].mlp.down_proj.weight = model.model.layers[other].mlp.down_proj.weight


def same_memory(model, layer, other):
    model.model.layers[layer].mlp.down_proj.weight.data = model.model.layers[other].mlp.down_proj.weight.data


@pytest.mark.parametrize("share", [same_module, same_parameter, same_memory])
def test_a_lower_layer_with_the_same_weights_would_be_edited_unseen(llama, share):
    share(llama, 0, 1)
    for layers in ([0, 1], [1], [1, 2]):
        with pytest.raises(LayoutError, match=r"Layers 0 and 1 share model.layers.\d.mlp.down_proj.weight"):
            Layout.of(llama).edited_matrices(layers)
    assert Layout.of(llama).edited_matrices([0])  # a layer above l_0 may share: values are made on the original weights
    assert Layout.of(llama).edited_matrices([2])


def test_one_layer_in_two_places(llama):
    llama.model.layers[3] = llama.model.layers[2]
    with pytest.raises(LayoutError, match="runs one layer in several places"):
        Layout.of(llama)


@pytest.mark.parametrize("parametrize", [weight_norm, spectral_norm])
def test_a_matrix_that_is_computed_from_others(llama, parametrize):
    parametrize(llama.model.layers[1].mlp.down_proj)
    with pytest.raises(LayoutError, match="computed from other parameters.*remove_parametrizations"):
        Layout.of(llama).output_matrix(1)


class Quantised(torch.Tensor):
    """As quantisation libraries have them: it calls itself float32, and what is added to it is lost."""

    @staticmethod
    def __new__(cls, tensor):
        return torch.Tensor._make_subclass(cls, tensor, tensor.requires_grad)


def test_a_tensor_subclass_that_calls_itself_float32(llama):
    weight = llama.model.layers[1].mlp.down_proj.weight
    llama.model.layers[1].mlp.down_proj.weight = nn.Parameter(Quantised(weight.data))
    with pytest.raises(LayoutError, match=r"is a Quantised \(quantised or distributed\), not a plain matrix"):
        Layout.of(llama).output_matrix(1)


def test_candidates_are_named_as_they_must_be_written():
    wrapped = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["down_proj"]))
    with pytest.raises(LayoutError, match="base_layer is the model's own") as caught:
        Layout.of(wrapped).output_matrix(1)
    name = re.search(r"one of (\S+base_layer),", str(caught.value))[1]
    assert Layout.of(wrapped, name).output_matrix(1).matrix.shape == (D, F)


def test_fused_experts_have_no_matrix_to_name():
    config = AutoConfig.for_model(
        "mixtral", vocab_size=320, hidden_size=D, intermediate_size=F, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(LayoutError, match=r"Layer 1 \(MixtralDecoderLayer\)") as caught:
        Layout.of(model).output_matrix(1)
    experts = getattr(getattr(model.model.layers[1], "mlp", None), "experts", None)
    if hasattr(experts, "down_proj"):  # stacked from 5.x on
        assert "rewrite_module_tmp" not in str(caught.value)
        assert "keeps its experts in one stacked tensor" in str(caught.value)
