"""What the model writes equals the definition: one token at a time, without batch or cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
