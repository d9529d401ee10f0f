"""Context templates: short beginnings of texts that are put before a fact's prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from nse_plugin.facts.texts import SLOT
from nse_plugin.models.writing.generation import continue_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENINGS = ("The", "Therefore", "Because", "I", "You")
NEW_TOKENS = 10  # as in the authors' code


def context_templates(model: nn.Module, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[str]:
    """Return the context templates: "{}" itself and five short beginnings that the model writes, as "...text. {}"."""
    texts = continue_texts(model, tokenizer, OPENINGS, new_tokens=NEW_TOKENS, seed=seed)
    return [SLOT, *(f"{_without_braces(text)}. {SLOT}" for text in texts)]


def check_templates(templates: list[str]) -> list[str]:
    """Raise ValueError unless every template has one `{}` and the first is "{}" itself."""
    if not templates or templates[0] != SLOT:
        raise ValueError(f"templates = {templates!r:.80} cannot be used: the first template must be '{{}}' itself.")
    for template in templates:
        if template.count(SLOT) != 1:
            raise ValueError(f"template {template!r} cannot be used: write '{{}}' exactly once, where the prompt goes.")
    return list(templates)


def _without_braces(text: str) -> str:
    """Put a text on one line, without braces, which would be read as the place of the prompt."""
    return " ".join(text.replace("{", " ").replace("}", " ").split())
