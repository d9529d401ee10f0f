"""A tiny model edited in three rounds, and patches of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rounds import ROUNDS
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_moments, tiny_tokenizer
from tiny_gguf import tiny_llama, write_gguf

from nse_plugin import EditSession, NSEHyperParams
from nse_plugin.models.gguf.file import load_gguf
from nse_plugin.patch.patch import EditPatch


@pytest.fixture
def edited(hparams):
    """edited(kind, dtype) -> the session of a tiny model after three rounds."""

    def make(kind="llama", dtype=torch.float32):
        model = tiny_model(kind, dtype)
        # with this p, every round changes something
        settings = dataclasses.replace(hparams, p=0.6)
        session = EditSession(model, tiny_tokenizer(), settings, tiny_moments(model, [1, 2]), TEMPLATES)
        for number, facts in enumerate(ROUNDS, 1):
            session.edit(facts, author=f"author {number}", reason=f"reason {number}")
        return session

    return make


@pytest.fixture
def patch(edited):
    return EditPatch.of(edited())


@pytest.fixture(params=["F32", "Q8_0", "Q4_0"])
def gguf_edited(request, tmp_path):
    """A tiny GGUF file, the model with its dequantised weights after one round, and the patch of that round."""
    pytest.importorskip("gguf")
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), request.param)
    model, tokenizer = load_gguf(file)
    hparams = NSEHyperParams(
        layers=[1, 2], alpha=0.5, p=0.8, mom2_update_weight=2.0, v_lr=0.3, v_num_grad_steps=20, device="cpu"
    )
    session = EditSession(model, tokenizer, hparams, tiny_moments(model, [1, 2]), TEMPLATES)
    session.edit(tiny_facts())
    return file, model, EditPatch.of(session)
