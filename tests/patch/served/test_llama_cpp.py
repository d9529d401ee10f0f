"""llama.cpp, run in this process."""

from __future__ import annotations

import pytest
import torch
from tiny_gguf import alike, best, first_tokens

from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.served.llama_cpp import served_answers

pytest.importorskip("xllamacpp")


def test_llama_cpp_computes_what_we_do(gguf_edited, tmp_path):
    """60 prompts of random tokens: the file by itself, with its adapter, and with the edited matrices in it. llama.cpp
    rounds activations where weights are quantised, so a near tie may fall otherwise."""
    file, model, patch = gguf_edited
    prompts = torch.randint(3, 300, (60, 9), generator=torch.Generator().manual_seed(0)).tolist()
    edited = best(model, prompts)
    patch.revert(model)
    base = best(model, prompts)
    assert alike(base, edited) < 50 / 60
    adapter = patch.to_gguf_lora(tmp_path / "adapter.gguf", file)
    written = patch.to_gguf(tmp_path / "model.gguf", file)
    assert alike(first_tokens(served_answers(file, prompts, tokens=1)), base) >= 54 / 60
    assert alike(first_tokens(served_answers(file, prompts, adapter, tokens=1)), edited) >= 54 / 60
    assert alike(first_tokens(served_answers(written, prompts, tokens=1)), edited) >= 54 / 60


def test_what_cannot_be_served_is_refused(tmp_path):
    with pytest.raises(PatchError, match="there is no such file"):
        served_answers(tmp_path / "nowhere.gguf", ["a"])
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(PatchError, match="llama.cpp cannot load"):
        served_answers(tmp_path / "x.gguf", ["a"])
