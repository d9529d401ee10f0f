"""Which rows of tokens are run in one batch."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nse_plugin.evaluation.teacher_forcing import predict
from nse_plugin.models.writing.generation import continue_texts


def stretched(rope: str) -> PreTrainedModel:
    """Rotary frequencies that depend on how long the longest row of a batch is, from 10 tokens on."""
    factors = {"short_factor": [1.0, 1.0], "long_factor": [3.0, 5.0]} if rope == "longrope" else {}
    parameters = {"rope_type": rope, "rope_theta": 10000.0, "factor": 8.0, **factors}
    config = AutoConfig.for_model(
        "llama", vocab_size=320, hidden_size=16, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=10 if rope == "dynamic" else 80, original_max_position_embeddings=10,
        pad_token_id=0, rope_scaling=parameters | {"original_max_position_embeddings": 10},
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    model.config.max_position_embeddings = 80
    return model


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_rows_do_not_change_the_rotary_frequencies_of_others(rope):
    prompts = ["The river", "She was born in the old town by the river because of rain and wind"]
    together = continue_texts(stretched(rope), tiny_tokenizer(), prompts, new_tokens=8)
    alone = [
        continue_texts(stretched(rope), tiny_tokenizer(), [prompt], new_tokens=8, places=[place])[0]
        for place, prompt in enumerate(prompts)
    ]
    assert together == alone
    asked = [(prompt, "Rome") for prompt in prompts]
    scores = predict(stretched(rope), tiny_tokenizer(), asked)
    for one in asked:
        own = predict(stretched(rope), tiny_tokenizer(), [one])[one]
        assert scores[one].log_probability == pytest.approx(own.log_probability, abs=1e-4)
