"""Models that cannot be edited at all."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model
from torch import nn

from nse_plugin.models.layout import Layout, LayoutError


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
