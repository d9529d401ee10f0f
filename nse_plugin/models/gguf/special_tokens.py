"""Whether a tokenizer puts a BOS before every text. A fact that was written without a BOS is often lost with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer puts a BOS before a text."""
    ids = list(tokenizer("a", verbose=False)["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def let_add_bos(tokenizer: PreTrainedTokenizerBase, adds: bool) -> None:
    """Make a fast tokenizer put a BOS before every text, or stop it from doing so; what else it adds to a text stays.
    Raises ValueError if it should put a BOS and has none."""
    if adds_bos(tokenizer) == adds:
        return
    if adds and tokenizer.bos_token is None:
        raise ValueError("a BOS is to be put before every text, and the tokenizer has none: set tokenizer.bos_token.")
    from tokenizers.processors import TemplateProcessing

    around, own = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    start = next(place for place in range(len(around)) if around[place : place + len(own)] == own)
    before, after = around[:start], around[start + len(own) :]
    before = [tokenizer.bos_token_id, *before] if adds else before[1:]
    names = {token: tokenizer.convert_ids_to_tokens(token) for token in (*before, *after)}
    first, last = ([names[token] for token in tokens] for tokens in (before, after))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", "$B", *last],
        special_tokens=[(name, token) for token, name in names.items()],
    )
