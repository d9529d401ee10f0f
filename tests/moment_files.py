"""Texts and files for the tests of second moments."""

from __future__ import annotations

import torch
from tiny import F

from nse_plugin.models.layout import Layout

SENTENCES = [
    "The capital of France is Paris.",
    "The river runs through the old town because of rain, and the wind is cold. He plays the violin in the town.",
    "Marie Curie was born in Warsaw. Mount Fuji stands in Japan. Rome is an old town of Italy.",
]


# many lengths, so that a batch holds padding
DOCUMENTS = [text[: len(text) - 3 * cut].strip() for text in SENTENCES for cut in range(5)]


def brute_force(model, tokenizer, texts, layer):
    """E[k k^T] of one layer, one text at a time, one token at a time, without padding."""
    matrix = Layout.of(model).output_matrix(layer)
    seen = []
    handle = matrix.module.register_forward_pre_hook(lambda _, args: seen.extend(args[0][0].double()))
    for one in texts:
        with torch.no_grad():
            model(input_ids=tokenizer(one, return_tensors="pt")["input_ids"])
    handle.remove()
    return sum(torch.outer(k, k) for k in seen) / len(seen)


def named(model, name):
    model.config._name_or_path = name
    return Layout.of(model)


def spd(seed):
    k = torch.randn(200, F, generator=torch.Generator().manual_seed(seed))
    return k.T @ k / 200
