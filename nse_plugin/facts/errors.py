"""The error for facts that cannot be edited."""

from __future__ import annotations


class FactError(ValueError):
    """A fact that cannot be edited as written; the message names the field, its value and the remedy."""
