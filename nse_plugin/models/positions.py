"""The maximum number of tokens that a model reads at once."""

from __future__ import annotations

from nse_plugin.hparams.model import text_config

_NAMES = ("max_position_embeddings", "max_seq_len", "max_target_positions")


def max_positions(config: object) -> int | None:
    """Return the position limit in the configuration of a model's text part; None if it has or gives none."""
    text = text_config(config)
    found = [getattr(text, name) for name in _NAMES if name in _fields(text)]
    return min((positions for positions in found if positions is not None and positions > 0), default=None)


def _fields(config: object) -> set[str]:
    """Return the fields of a configuration, including the common names that transformers maps to them."""
    aliases: dict[str, str] = getattr(config, "attribute_map", {})
    own = vars(config)
    return {*own, *(alias for alias, name in aliases.items() if name in own)}


def check_room(prompt: str, tokens: int, besides: str, positions: int | None) -> None:
    """Raise ValueError if a prompt, `tokens` long including `besides`, does not fit into a model's positions."""
    if positions is not None and tokens > positions:
        raise ValueError(
            f"prompt {prompt!r:.60}{besides} is {tokens} tokens long, and the model has {positions} positions: shorten "
            "it, or leave it out."
        )
