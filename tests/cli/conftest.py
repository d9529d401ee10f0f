from __future__ import annotations

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def saved(tmp_path):
    """The folder of a saved tiny model."""
    folder = tmp_path / "town-model"
    tiny_model("llama", torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)
