"""The error for invalid hyperparameters."""

from __future__ import annotations


class HyperParamsError(ValueError):
    """A hyperparameter that cannot be used; the message names the field, its value and the remedy."""
