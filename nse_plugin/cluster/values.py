"""Compute values z of many facts, also of future rounds, with workers, and write them to a store as they finish.

z is computed on the unedited model (rewinding, arXiv 2410.04045, section 3.2), so earlier edits cannot change it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from safetensors import SafetensorError

from nse_plugin.cluster.pool import Pool
from nse_plugin.facts import Fact
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.store import VALUE, Store, StoreError
from nse_plugin.support.progress import bar

FACTS_PER_SHARD = 10  # enough for one batch, and few enough to repeat if a worker is lost


@dataclass(frozen=True)
class Filled:
    """Result of `fill_store`. computed, read: numbers of values that were computed and that the store already had,
    without repeated facts. repeated: number of facts that occurred before. shared: number of facts that share a value
    with others, which is computed in their rounds.

    failed: texts of the facts among the computed ones whose value is not finite and was not stored. seconds: time for
    the values. seconds_loading: time before that, until the first worker had its model and contexts.
    """

    computed: int
    read: int
    repeated: int
    shared: int
    failed: list[str]
    seconds: float
    seconds_loading: float


def fill_store(store: Store, facts: Sequence[Fact], pool: Pool) -> Filled:
    """Compute z of every fact that the store does not have. Raises FactError, StoreError, ClusterError, and the errors
    of loading the model."""
    started = time.monotonic()
    unique = list({fact.signature: fact for fact in facts}.values())
    [(_, (addresses, prompts))] = pool.each("encode", [(unique,)])
    ready = time.monotonic()
    different = dict(zip(addresses, prompts, strict=True))
    missing = {address: fact for address, fact in different.items() if store.get(address) is None}
    # Facts of similar length run well in one batch; the longest go first, so that no worker is left with one.
    ordered = sorted(missing, key=lambda address: _replayed(missing[address]), reverse=True)
    shards = [ordered[first : first + FACTS_PER_SHARD] for first in range(0, len(ordered), FACTS_PER_SHARD)]
    failed = []
    with bar("values z, facts", len(missing)) as advance:
        tasks = (([missing[address] for address in shard], shard) for shard in shards)
        for number, values in pool.each("values", tasks):
            for address, z in zip(shards[number], values, strict=True):
                text = missing[address].text
                if not z.isfinite().all():
                    failed.append(text)
                    continue
                try:
                    store.put(address, z, VALUE, text)
                except (OSError, SafetensorError) as error:
                    raise StoreError(f"store {store.folder} cannot be written to ({error}): give another.") from error
            advance(len(shards[number]))
    read, repeated, shared = len(different) - len(missing), len(facts) - len(unique), len(unique) - len(addresses)
    return Filled(len(missing), read, repeated, shared, failed, time.monotonic() - ready, ready - started)


def _replayed(fact: FactPrompts) -> int:
    """Return the number of tokens of a fact's longest row that every optimisation step runs."""
    return max(len(row.ids) - row.lookup for row in fact.rewrites)
