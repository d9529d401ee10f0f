from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from next_word import NextWord
from tiny import tiny_model, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin.evaluation.drift.hidden import hidden_states
from nse_plugin.evaluation.metrics.perplexity import perplexity
from nse_plugin.evaluation.teacher_forcing import Prediction, predict
from nse_plugin.models.positions import max_positions

PAIRS = [
    ("The capital of France is", "Paris"),
    ("The capital of France is", "Rome"),
    ("The capital of France is", "Los Angeles"),
    ("we saw a red boat in Los Angeles . The capital of Peru is", "Lima"),
    ("Peru", "is in Rome"),
]


def one_by_one(model: Any, tokenizer: Any, prompt: str, target: str) -> Prediction:
    """The definition, with one unpadded pass over prompt and target."""
    ids = tokenizer(f"{prompt} {target}")["input_ids"]
    count = len(target.split())
    logprobs = model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)
    places = range(len(ids) - count, len(ids))
    mean = float(sum(logprobs[i - 1, ids[i]] for i in places) / count)
    return Prediction(mean, tuple(ids[-count:]), tuple(int(logprobs[i - 1].argmax()) for i in places))


def test_by_hand(tokenizer: Any) -> None:
    ids = tokenizer.get_vocab()
    pairs = [("The city is", "Paris"), ("The city is ", " Los Angeles"), ("Peru is", "Los")]
    paris, los_angeles, los = predict(NextWord(ids), tokenizer, pairs).values()
    assert paris.log_probability == pytest.approx(math.log(1 / 2), abs=1e-6)
    assert los_angeles.log_probability == pytest.approx((math.log(1 / 4) + math.log(1 / 16)) / 2, abs=1e-6)
    assert los_angeles.probability == pytest.approx(1 / 8, abs=1e-6)
    assert los.log_probability == pytest.approx(math.log(1 / 4), abs=1e-6)
    assert los_angeles.target == (ids["Los"], ids["Angeles"])
    assert los_angeles.best == (ids["Paris"], ids["Angeles"])
    assert [prediction.accuracy for prediction in (paris, los_angeles, los)] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("tokens_per_batch", [1, 12, 10_000])
def test_each_pair_as_if_it_were_alone(model: Any, tokenizer: Any, tokens_per_batch: int) -> None:
    found = predict(model, tokenizer, PAIRS, tokens_per_batch)
    assert list(found) == PAIRS
    for pair in PAIRS:
        expected = one_by_one(model, tokenizer, *pair)
        assert found[pair].log_probability == pytest.approx(expected.log_probability, abs=1e-6)
        assert (found[pair].target, found[pair].best) == (expected.target, expected.best)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_plays_no_part(model: Any, tokenizer: Any, side: str) -> None:
    expected = predict(model, tokenizer, PAIRS)
    tokenizer.padding_side = side
    assert predict(model, tokenizer, PAIRS) == expected


def test_no_row_is_read_twice(model: Any, tokenizer: Any, rows_read: list[list[int]]) -> None:
    predict(model, tokenizer, [*PAIRS, *PAIRS])
    assert len(rows_read) == len(PAIRS) - 2  # one-token targets of a prompt are read in the row of a longer one


def test_the_model_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    predict(model, tokenizer, PAIRS)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_a_prompt_longer_than_the_models_positions_is_refused(architecture: str) -> None:
    model, tokenizer = tiny_model(architecture, torch.float32), tiny_tokenizer()
    room = max_positions(model.config)
    assert room == 64
    prompts = ["a" * count for count in range(1, 70)]  # of no word, so a token a letter
    read = [len(tokenizer(f"{prompt} Paris")["input_ids"]) - 1 for prompt in prompts]
    fits, over = prompts[read.index(64)], prompts[read.index(65)]
    assert math.isfinite(predict(model, tokenizer, [(fits, "Paris")])[fits, "Paris"].log_probability)
    with pytest.raises(ValueError, match=r"aaa.*with the target 'Paris' is 65 tokens long, and the model has 64 pos"):
        predict(model, tokenizer, [("Rome is", "Italy"), (over, "Paris")])


def test_padding_does_not_spread_in_float64_with_eager_attention() -> None:
    """transformers' eager attention makes NaN of a token that attends to nothing, and NaN spreads."""
    config = AutoConfig.for_model(
        "mistral", vocab_size=320, hidden_size=16, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64, attn_implementation="eager").eval()
    tokenizer = tiny_tokenizer()
    pairs = [("Rome is", "Italy"), ("He plays the violin of the old town in Paris and of", "Rome"), ("Lyon", "Paris")]
    together = predict(model, tokenizer, pairs)
    assert together == {pair: predict(model, tokenizer, [pair])[pair] for pair in pairs}
    text = "The river runs through the old town because of rain, and Mount Fuji stands in Italy."
    assert math.isfinite(perplexity(model, tokenizer, text, window=7))
    states = hidden_states(model, tokenizer, [prompt for prompt, _ in pairs])
    assert states.isfinite().all()
