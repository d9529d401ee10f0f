"""A model's configuration and name, as hyperparameters are found by them."""

from __future__ import annotations

import re
from typing import Any


def text_config(config: object) -> Any:
    """Return the configuration of a model's text part, or the configuration itself if it has no separate one."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def letters_of(name: str) -> str:
    """Return the lower-case letters and digits of a model's name, which differ least between its spellings."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
