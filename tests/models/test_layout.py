"""Finding a model's parts by structure."""

from __future__ import annotations

import pytest
import torch
from tiny import LAYERS, D, F, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

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


@pytest.mark.parametrize(("architecture", "kind"), [("llama", nn.Linear), ("gpt2", Conv1D)])
def test_columns_are_neurons_in_linear_and_conv1d(architecture, kind):
    """Adding to neuron j changes the module's output by its activity times the vector added."""
    matrix = Layout.of(tiny_model(architecture)).output_matrix(1)
    assert isinstance(matrix.module, kind)
    keys = torch.randn(3, F, dtype=torch.float64)
    neurons, delta = torch.tensor([4, 17]), torch.randn(D, 2, dtype=torch.float64)
    with torch.no_grad():
        before = matrix.module(keys)
        parameter = matrix.weight
        matrix.add_columns(neurons, delta)
        change = matrix.module(keys) - before
    assert matrix.weight is parameter
    assert torch.allclose(change, keys[:, neurons] @ delta.T)


def test_columns_are_summed_in_float64_and_rounded_once():
    matrix = Layout.of(tiny_model("llama", torch.bfloat16)).output_matrix(1)
    before = matrix.matrix.clone()
    delta = torch.randn(D, F, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix.add_columns(torch.arange(F), delta)
    assert torch.equal(matrix.matrix, (before.double() + delta).to(torch.bfloat16))


@pytest.mark.parametrize("layer", [-1, LAYERS, 99])
def test_a_layer_out_of_range(llama, layer):
    with pytest.raises(LayoutError, match=rf"layers.*{layer}.*out of range.*0 to {LAYERS - 1}"):
        Layout.of(llama).output_matrix(layer)


def test_a_model_without_decoder_layers(llama):
    llama.model.layers = nn.ModuleList()
    with pytest.raises(LayoutError, match="LlamaForCausalLM has no list of 4 decoder layers"):
        Layout.of(llama)


def test_weights_on_the_meta_device(llama):
    llama.lm_head.to("meta")
    with pytest.raises(LayoutError, match="meta device.*load it whole"):
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
    with pytest.raises(LayoutError, match=r"Layer 1 \(LlamaDecoderLayer\) has 2 matrices.*rewrite_module_tmp"):
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
