"""The vocabulary of a SentencePiece BPE tokenizer as stored in a GGUF file: tokens with scores, but no merges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers.models import BPE


def bpe_of(tokens: Sequence[str], scores: Sequence[float], unknown: str | None) -> Any:
    """Build a `tokenizers` model that merges as SentencePiece and llama.cpp do: of all adjacent pieces whose joined
    text is a token, the pair with the highest score first.

    transformers 5.5.4 reads the scores of Gemma's files, which are ranks, as log-probabilities (Unigram): most words
    are then split into pieces that the model has never seen in that order.
    """
    # these files write "▁" for a space, except in tokens that are only spaces
    vocabulary = {token.replace(" ", "▁") if token.isspace() else token: place for place, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = []
    for token in sorted(vocabulary, key=lambda token: (-scores[vocabulary[token]], vocabulary[token])):
        splits = ((token[:end], token[end:]) for end in range(1, len(token)))
        merges += [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
    byte_fallback = "<0x00>" in vocabulary
    return BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback)
