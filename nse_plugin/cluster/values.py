"""Values z of many facts, of all rounds to come too, into a store: computed by workers, kept as they come.

z belongs to the unedited model (rewinding, arXiv 2410.04045, section 3.2), so nothing written before a fact's round
can change it.
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

FACTS_PER_SHARD = 10  # enough for one batch, few enough to lose


@dataclass(frozen=True)
class Filled:
    """How a store got its values: computed and read, of different facts; repeated: how many facts are there again;
    shared: how many share a value with others, which is made in their rounds.

    failed: texts of facts whose optimisation was not finite; they are not kept. seconds: of the values;
    seconds_loading: before, until the first worker had its model and contexts.
    """

    computed: int
    read: int
    repeated: int
    shared: int
    failed: list[str]
    seconds: float
    seconds_loading: float


def fill_store(store: Store, facts: Sequence[Fact], pool: Pool) -> Filled:
    """Compute z of every fact that the store does not have. Raises FactError, StoreError, ClusterError, and what
    loading the model raises."""
    started = time.monotonic()
    unique = list({fact.signature: fact for fact in facts}.values())
    [(_, (addresses, prompts))] = pool.each("encode", [(unique,)])
    ready = time.monotonic()
    different = dict(zip(addresses, prompts, strict=True))
    missing = {address: fact for address, fact in different.items() if store.get(address) is None}
    # Facts of like length run well in one batch; the longest go first, so that no worker ends with one.
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
    """The tokens of a fact's longest row that every step of the optimisation runs."""
    return max(len(row.ids) - row.lookup for row in fact.rewrites)
