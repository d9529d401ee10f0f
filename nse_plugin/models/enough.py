"""Forward passes that end once everything wanted was seen."""

from __future__ import annotations


class Enough(Exception):
    """Raised by a hook inside a forward pass, and caught around it."""
