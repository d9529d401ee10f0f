"""The context managers in which EasyEdit's algorithms are run."""

from __future__ import annotations

import logging
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.baselines.scopes import ToLog, own_memories, seeded, text_writer, undisturbed


def test_memories_are_lent_for_the_time_of_a_call(monkeypatch):
    module = ModuleType("memit_of_somebody")
    module.COV_CACHE, module.CONTEXT_TEMPLATES_CACHE = {"another": 1}, ["another's"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    memories = {}
    with own_memories([module], memories):
        assert (module.COV_CACHE, module.CONTEXT_TEMPLATES_CACHE) == ({}, None)
        module.COV_CACHE["ours"] = 2
        module.CONTEXT_TEMPLATES_CACHE = ["ours"]
    assert (module.COV_CACHE, module.CONTEXT_TEMPLATES_CACHE) == ({"another": 1}, ["another's"])
    seen = []
    with pytest.raises(KeyError), own_memories([module], memories):
        raise KeyError(seen.append((module.COV_CACHE, module.CONTEXT_TEMPLATES_CACHE)))
    assert seen == [({"ours": 2}, ["ours"])]
    assert module.COV_CACHE == {"another": 1}


def test_flags_and_gradients_are_as_before(llama):
    llama.train()
    llama.model.layers[0].eval()
    llama.lm_head.weight.requires_grad_(False)
    training, asked = [m.training for m in llama.modules()], [p.requires_grad for p in llama.parameters()]
    with undisturbed(llama):
        assert not any(module.training for module in llama.modules())
        llama.requires_grad_(True)
        llama(torch.tensor([[1, 2]])).logits.sum().backward()
    assert [module.training for module in llama.modules()] == training
    assert [parameter.requires_grad for parameter in llama.parameters()] == asked
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_random_numbers_start_from_the_seed_and_go_on_as_they_were(llama):
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    outside = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    with seeded(3, llama):
        inside = draw()
    assert draw() == outside
    with seeded(3, llama):
        assert draw() == inside
    with seeded(4, llama):
        assert draw() != inside


def test_what_is_printed_goes_to_the_log(caplog):
    with caplog.at_level(logging.DEBUG, logger="nse_plugin.baselines.scopes"):
        print("loss 3.0", file=ToLog())
    assert caplog.messages == ["loss 3.0"]


def test_texts_of_easyedits_writer_are_seeded_and_do_not_begin_alike():
    model, tokenizer = tiny_model("llama", torch.float32), tiny_tokenizer()
    texts = text_writer(0)(model, tokenizer, ["The", "I"], n_gen_per_prompt=2, max_out_len=10)
    assert [text.split()[0][: len(word)] for text, word in zip(texts, ["The", "The", "I", "I"], strict=True)] == [
        "The", "The", "I", "I",
    ]  # fmt: skip
    assert texts[0] != texts[1]
    assert text_writer(0)(model, tokenizer, ["The", "I"], n_gen_per_prompt=2, max_out_len=10) == texts
    assert text_writer(1)(model, tokenizer, ["The", "I"], n_gen_per_prompt=2, max_out_len=10) != texts
