"""Hashes of plain values."""

from __future__ import annotations

import hashlib
import json


def hash_of(what: dict[str, object]) -> str:
    """Return the SHA-256 of a JSON object, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
