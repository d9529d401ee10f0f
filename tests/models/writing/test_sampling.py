"""Sampled text equals the definition: one token at a time, without batches or a cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from architectures import random_model
from tiny import ARCHITECTURES, tiny_model

from nse_plugin.models.writing import uniform_draws, write

ROWS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
NEVER = [0, 1]


@pytest.mark.parametrize("top_k", [None, 5])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_each_token_is_the_drawn_quantile(kind: str, top_k: int | None) -> None:
    model = tiny_model(kind)
    draws = uniform_draws(3, range(len(ROWS)), 8)
    found = write(model, ROWS, draws, never=NEVER, top_k=top_k)
    for row, draw, written in zip(ROWS, draws, found, strict=True):
        ids = list(row)
        for number in draw.tolist():
            logits = model(torch.tensor([ids])).logits[0, -1].detach().double().numpy()
            logits[NEVER] = -np.inf
            likely = np.arange(len(logits)) if top_k is None else np.argsort(-logits)[:top_k]
            weights = np.exp(logits[likely] - logits.max())
            ids.append(int(likely[np.searchsorted((weights / weights.sum()).cumsum(), number, side="right")]))
        assert written == ids


def test_a_draw_depends_on_seed_and_place_only() -> None:
    draws = uniform_draws(0, range(4), 6)
    assert torch.equal(uniform_draws(0, [2], 6), draws[2:3])
    assert torch.equal(uniform_draws(0, range(4), 3), draws[:, :3])
    assert not torch.equal(uniform_draws(1, range(4), 6), draws)
    assert ((draws >= 0) & (draws < 1)).all()


def test_a_token_beyond_the_vocabulary_cannot_be_drawn_anyway() -> None:
    """As of a pad token that was added without resizing the embeddings."""
    model, draws = tiny_model("llama"), uniform_draws(0, [0], 4)
    beyond = model.config.vocab_size
    assert write(model, ROWS[:1], draws, never=[0, beyond]) == write(model, ROWS[:1], draws, never=[0])


@pytest.mark.parametrize("kind", ["roberta", "bart", "roformer", "mamba", "recurrent_gemma", "lfm2", "falcon_h1"])
def test_models_that_do_not_go_on_from_a_cache_write_the_same(kind: str) -> None:
    """Those that count positions by themselves, or keep state where a cache does not hold it."""
    model = random_model(kind)
    draws = uniform_draws(3, range(len(ROWS)), 5)
    found = write(model, ROWS, draws, never=NEVER, top_k=5)
    for row, draw, written in zip(ROWS, draws, found, strict=True):
        ids = list(row)
        for number in draw.tolist():
            logits = model(torch.tensor([ids])).logits[0, -1].detach().float().double().numpy()
            logits[NEVER] = -np.inf
            likely = np.argsort(-logits)[:5]
            weights = np.exp(logits[likely] - logits.max())
            ids.append(int(likely[np.searchsorted((weights / weights.sum()).cumsum(), number, side="right")]))
        assert written == ids


@pytest.mark.parametrize("hooked", [False, True])
def test_others_are_read_once_more_to_make_sure(hooked: bool) -> None:
    model, lengths = tiny_model("llama"), []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape))
    hook = next(iter(model.model.embed_tokens._forward_pre_hooks.values()))
    hook.__module__ = __name__ if hooked else "transformers.only_observes"
    write(model, ROWS, uniform_draws(3, range(len(ROWS)), 4), never=NEVER)
    steps = [(3, 5), *[(3, 1)] * 3]
    assert [tuple(shape) for shape in lengths] == steps + ([] if hooked else [(1, 4)])  # the shortest row and its text
