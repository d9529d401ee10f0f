"""Models that cannot be edited at all."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model
from torch import nn

from nse_plugin.models.layout import Layout, LayoutError
from nse_plugin.models.layout.structure import has_stacked_experts, mixes_tokens, mlp_writers


def test_weights_on_the_meta_device(llama):
    llama.lm_head.to("meta")
    with pytest.raises(LayoutError, match="meta device.*load it whole"):
        Layout.of(llama)


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        model = tiny_model("llama")
    with pytest.raises(LayoutError, match="torch.inference_mode.*load it outside"):
        Layout.of(model)


@pytest.mark.parametrize("wrapper", [nn.Sequential, nn.DataParallel])
def test_a_wrapper_is_no_model(llama, wrapper):
    with pytest.raises(LayoutError, match=f"{wrapper.__name__} is not a transformers model: give"):
        Layout.of(wrapper(llama))


def test_outputs_without_names(llama):
    llama.config.return_dict = False
    with pytest.raises(LayoutError, match="config.return_dict is False: set it to True"):
        Layout.of(llama)


class Mixer(nn.Module):
    """As in Mamba: a convolution along the tokens, and its own matrix to the hidden size."""

    def __init__(self):
        super().__init__()
        self.conv1d, self.out_proj = nn.Conv1d(24, 24, 4, groups=24), nn.Linear(24, 16)


def test_a_convolution_along_the_tokens_is_no_mlp():
    layer = nn.Module()
    layer.mixer, layer.down_proj = Mixer(), nn.Linear(40, 16)
    assert mixes_tokens(layer.mixer)
    assert not mixes_tokens(layer)
    assert mlp_writers(layer, 16) == [layer.down_proj]


def test_a_layer_that_is_nothing_but_a_state_space_writes_with_its_own_matrix():
    layer = nn.Module()
    layer.mixer = Mixer()
    assert mlp_writers(layer, 16) == [layer.mixer.out_proj]


def test_experts_in_one_parameter(llama):
    class Experts(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.down_proj = nn.Parameter(torch.zeros(shape))

    layer = llama.model.layers[0]
    assert not has_stacked_experts(layer, 16)
    layer.mlp = Experts(4 * 40, 16)
    assert has_stacked_experts(layer, 16)
