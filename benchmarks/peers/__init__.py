"""Other people's ways to the same numbers, one a file."""

from __future__ import annotations


class NotHere(Exception):
    """A peer that cannot be run on this machine; the message says in one sentence what it would need."""
