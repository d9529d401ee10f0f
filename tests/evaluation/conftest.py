from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = "The capital of France Italy Peru is in city Paris Rome Lima Los Angeles . we saw a red boat"
WORDS = ["<end>", *TEXT.split()]
# The user's turn begins with "we saw", the assistant's with "a".
CHAT = (
    "{% for m in messages %}{{ 'we saw ' if m.role == 'user' else 'a ' }}{{ m.content }} {% endfor %}"
    "{{ 'a ' if add_generation_prompt else '' }}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word, so that tokens are easy to count."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<end>", chat_template=CHAT)


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval().double()


@pytest.fixture
def rows_read(model: Any) -> Iterator[list[list[int]]]:
    """All rows of token ids that the model gets during the test."""
    rows: list[list[int]] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: rows.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    yield rows
    handle.remove()
