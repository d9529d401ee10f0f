"""What is wrong with a fact."""

from __future__ import annotations


class FactError(ValueError):
    """A fact that cannot be edited as it is written; the message names the field, its value and the remedy."""
