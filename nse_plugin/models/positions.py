"""How many tokens a model reads at once at most."""

from __future__ import annotations

from typing import Any

_NAMES = ("max_position_embeddings", "max_seq_len", "max_target_positions")


def max_positions(config: object) -> int | None:
    """Of a model's configuration, or that of its text part; None where it has no limit, or gives none."""
    text = text_config(config)
    found = [getattr(text, name) for name in _NAMES if name in _fields(text)]
    return min((positions for positions in found if positions is not None and positions > 0), default=None)


def text_config(config: object) -> Any:
    """The configuration of a model's text part; its own where it has no other."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _fields(config: object) -> set[str]:
    """The fields of a configuration, also under the names that transformers gives all kinds of models."""
    aliases: dict[str, str] = getattr(config, "attribute_map", {})
    own = vars(config)
    return {*own, *(alias for alias, name in aliases.items() if name in own)}


def check_room(prompt: str, tokens: int, besides: str, positions: int | None) -> None:
    """Raise ValueError when a prompt, which `besides` makes `tokens` long, does not fit into a model's positions."""
    if positions is not None and tokens > positions:
        raise ValueError(
            f"prompt {prompt!r:.60}{besides} is {tokens} tokens long, and the model has {positions} positions: shorten "
            "it, or leave it out."
        )
