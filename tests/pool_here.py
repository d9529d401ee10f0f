"""A worker pool whose workers are objects in this process, to test the handling of shards without Ray's overhead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


class PoolHere:
    """Hands shards to `workers` in turn. handed_out: what each method was given. last_first: results come in the
    opposite order, as those of a slow worker may."""

    def __init__(self, workers: list[Any], last_first: bool = False) -> None:
        self._workers, self._last_first = workers, last_first
        self.handed_out: list[tuple[str, tuple[Any, ...]]] = []
        for worker in workers:
            worker.load()

    def each(self, method: str, shards: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        found = []
        for number, shard in enumerate(shards):
            self.handed_out.append((method, shard))
            found.append((number, getattr(self._workers[number % len(self._workers)], method)(*shard)))
        yield from reversed(found) if self._last_first else found
