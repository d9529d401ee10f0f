"""The device on which a model takes its tokens."""

from __future__ import annotations

import torch
from tiny import tiny_model

from nse_plugin.models.inputs import input_device


def test_it_is_that_of_the_embeddings_wherever_the_rest_is():
    model = tiny_model("llama")
    assert input_device(model) == torch.device("cpu")
    model.get_input_embeddings().to("meta")
    assert input_device(model) == torch.device("meta")
