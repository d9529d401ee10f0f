"""How many tokens a model reads at once at most."""

from __future__ import annotations

from typing import Any


def max_positions(config: Any) -> int | None:
    """Of a model's configuration, or that of its text part; None where it has no limit, or does not say."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(text, "max_position_embeddings", None) or 0
    return positions if positions > 0 else None


def check_room(prompt: str, tokens: int, besides: str, positions: int | None) -> None:
    """Raise ValueError when a prompt, which `besides` makes `tokens` long, does not fit into a model's positions."""
    if positions is not None and tokens > positions:
        raise ValueError(
            f"prompt {prompt!r:.60}{besides} is {tokens} tokens long, and the model has {positions} positions: shorten "
            "it, or leave it out."
        )
