"""A store filled by workers: which facts they get, and which results are kept."""

from __future__ import annotations

import pytest
import torch
from pool_here import PoolHere
from tiny import tiny_facts

from nse_plugin.facts import Fact
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.store import Store, StoreError

pytest.importorskip("ray", reason="Ray is not installed: pip install 'nse-plugin[cluster]'")

from nse_plugin.cluster import values as module
from nse_plugin.cluster.values import fill_store
from nse_plugin.cluster.worker import Worker


@pytest.fixture
def pool(saved, hparams_file):
    return PoolHere([Worker(saved, "float64", "cpu", NSEHyperParams.from_hparams(hparams_file), 1)], last_first=True)


def test_only_what_is_missing_is_handed_out_the_longest_first(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FACTS_PER_SHARD", 2)
    store, facts = Store(tmp_path), tiny_facts()
    filled = fill_store(store, [*facts[:3], facts[0]], pool)
    assert (filled.computed, filled.read, filled.repeated, filled.shared, filled.failed) == (3, 0, 1, 0, [])
    (_, (first, _)), (_, (second, _)) = [one for one in pool.handed_out if one[0] == "values"]
    assert [len(first), len(second)] == [2, 1]
    suffixes = [len(prompt.rewrites[0].ids) - prompt.rewrites[0].lookup for prompt in (*first, *second)]
    assert suffixes == sorted(suffixes, reverse=True)
    addresses, prompts = pool._workers[0].encode(facts[:3])
    for address, prompt in zip(addresses, prompts, strict=True):  # each under its own address, whichever came first
        alone = pool._workers[0].values([prompt], [address])
        assert torch.allclose(store.get(address), alone[0], rtol=1e-10)
    again = fill_store(store, facts, pool)
    assert (again.computed, again.read) == (1, 3)


def test_a_value_that_is_not_finite_is_named_and_not_kept(pool, tmp_path, monkeypatch):
    values = Worker.values
    monkeypatch.setattr(Worker, "values", lambda *given: values(*given) * torch.tensor([[torch.nan], [1.0]]))
    filled = fill_store(Store(tmp_path), tiny_facts()[:2], pool)
    assert (filled.computed, len(filled.failed)) == (2, 1)
    assert len(Store(tmp_path).entries()) == 1


def test_a_store_that_cannot_be_written_to(pool, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(StoreError, match="cannot be written to .no space left.: give another"):
        fill_store(Store(tmp_path), [Fact("{} is", "Rome", "old")], pool)
