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
    """Make a fast tokenizer put a BOS before every text, or stop it from doing so; if this changes anything, other
    special tokens are no longer added either. Raises ValueError if it should put a BOS and has none."""
    if adds_bos(tokenizer) == adds:
        return
    if adds and tokenizer.bos_token is None:
        raise ValueError("a BOS is to be put before every text, and the tokenizer has none: set tokenizer.bos_token.")
    from tokenizers.processors import TemplateProcessing

    bos = f"{tokenizer.bos_token} " if adds else ""
    special = [(tokenizer.bos_token, tokenizer.bos_token_id)] if adds else []
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos}$A", pair=f"{bos}$A $B", special_tokens=special
    )
