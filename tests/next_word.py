"""A hand-made model over a vocabulary of words, for which every metric can be computed by hand."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch

BY_HAND = {"is": {"Paris": 1 / 2, "Los": 1 / 4}, "Los": {"Angeles": 1 / 16}}


class NextWord(torch.nn.Module):
    """A word alone decides what follows: after "is", P(Paris) = 1/2, P(Los) = 1/4; after "Los", P(Angeles) = 1/16.

    All other words share what is left alike; after any other word, all words are alike.
    """

    config = SimpleNamespace()

    def __init__(self, ids: dict[str, int], following: dict[str, dict[str, float]] = BY_HAND) -> None:
        super().__init__()
        self.ids = ids
        table = torch.full((len(ids), len(ids)), 1 / len(ids))
        for word, chances in following.items():
            table[ids[word]] = (1 - sum(chances.values())) / (len(ids) - len(chances))
            for other, chance in chances.items():
                table[ids[word], ids[other]] = chance
        self.embedding = torch.nn.Embedding.from_pretrained(table.log())

    def probability(self, word: str, following: str) -> float:
        return float(self.embedding.weight[self.ids[word], self.ids[following]].exp())

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, logits_to_keep: Any = slice(None), **_: Any) -> Any:
        return SimpleNamespace(logits=self.embedding(input_ids)[:, logits_to_keep])


class Written(NextWord):
    """`NextWord` as `write` calls it: it keeps the cache's place empty and knows what ends a text."""

    def __init__(self, ids: dict[str, int], following: dict[str, dict[str, float]], end: Any = None) -> None:
        super().__init__(ids, following)
        self.generation_config = SimpleNamespace(eos_token_id=end)

    def forward(self, input_ids: torch.Tensor, logits_to_keep: Any = 0, **_: Any) -> Any:
        return SimpleNamespace(logits=self.embedding(input_ids[:, -1:]), past_key_values=None)


def chain(text: str) -> dict[str, dict[str, float]]:
    """Each word of a text is followed by the next one."""
    words = text.split()
    return {one: {other: 0.9} for one, other in pairwise(words)}
