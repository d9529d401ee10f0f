"""Representative samples of a sequence."""

from __future__ import annotations


def evenly_spaced(count: int, chosen: int | None) -> list[int]:
    """Return `chosen` evenly spaced indices from 0 to count - 1, always including 0; all indices if `chosen` is None or
    exceeds `count`. A file sorted by subject thus contributes items of many subjects."""
    chosen = count if chosen is None else min(chosen, count)
    return [number * count // chosen for number in range(chosen)]
