"""Other implementations of the same computation, one per file."""

from __future__ import annotations


class NotHere(Exception):
    """A peer cannot be run on this machine; the message says in one sentence what it needs."""
