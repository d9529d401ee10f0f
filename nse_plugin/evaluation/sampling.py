"""Some of many, so that they stand for all of them."""

from __future__ import annotations


def evenly_spaced(count: int, chosen: int | None) -> list[int]:
    """`chosen` of the places 0 ... count - 1, the first among them, so that a file sorted by subject gives of each; all
    for None, or when there are no more."""
    chosen = count if chosen is None else min(chosen, count)
    return [number * count // chosen for number in range(chosen)]
