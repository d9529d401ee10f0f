"""A tiny model edited in three rounds, and its patches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rounds import ROUNDS
from tiny import TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from nse_plugin import EditSession
from nse_plugin.patch.patch import EditPatch


@pytest.fixture
def edited(hparams):
    """edited(kind, dtype) -> the session of a tiny model after three rounds."""

    def make(kind="llama", dtype=torch.float32):
        model = tiny_model(kind, dtype)
        # without the norm of a round's residuals in the way, every round changes something
        settings = dataclasses.replace(hparams, p=0.6)
        session = EditSession(model, tiny_tokenizer(), settings, tiny_moments(model, [1, 2]), TEMPLATES)
        for number, facts in enumerate(ROUNDS, 1):
            session.edit(facts, author=f"author {number}", reason=f"reason {number}")
        return session

    return make


@pytest.fixture
def patch(edited):
    return EditPatch.of(edited())
