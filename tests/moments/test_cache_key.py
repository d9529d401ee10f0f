"""The key of second moments contains everything that they are measured from."""

from __future__ import annotations

import dataclasses

import torch
from moment_files import named
from tiny import tiny_model

from nse_plugin.moments.corpora import corpus_identity
from nse_plugin.moments.provider import second_moments


def test_another_seed_writes_another_text(tokenizer, settings):
    layout = named(tiny_model("llama"), "town-model")
    own = dataclasses.replace(settings, mom2_dataset="self", mom2_n_samples=4)
    first = second_moments(layout, tokenizer, own)
    assert not torch.equal(second_moments(layout, tokenizer, dataclasses.replace(own, seed=1))[1], first[1])


def test_a_corpus_that_changed_anywhere_is_another(tokenizer, settings, text, tmp_path):
    """Also after its first MiB, and at the same size."""
    long = tmp_path / "long.txt"
    settings = dataclasses.replace(settings, mom2_dataset=str(long), mom2_n_samples=2)
    start = "The river.\n" * (2**20 // 11 + 1)
    texts = set()
    for end in ("old", "new"):
        long.write_text(start + end)
        texts.add(corpus_identity(settings))
    assert len(texts) == 2
