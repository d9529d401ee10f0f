"""Values and moments from workers on two nodes of a Ray cluster equal those of one process, even if a worker dies."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from tiny import tiny_facts

from nse_plugin.facts import Fact, FactError
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.models.loading import load
from nse_plugin.moments.corpora import token_batches
from nse_plugin.moments.measure import MomentSums, measure_moments
from nse_plugin.moments.provider import second_moments
from nse_plugin.session import EditSession
from nse_plugin.store import Store

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'nse-plugin[cluster]'")

from nse_plugin.cluster import pool as pool_module  # noqa: E402
from nse_plugin.cluster.moments import measure_on  # noqa: E402
from nse_plugin.cluster.pool import workers  # noqa: E402
from nse_plugin.cluster.values import FACTS_PER_SHARD, fill_store  # noqa: E402
from nse_plugin.cluster.worker import ClusterError  # noqa: E402

LAYERS = [1, 2]


def settings(**others) -> NSEHyperParams:
    return NSEHyperParams(
        layers=LAYERS, alpha=1.0, v_lr=0.1, v_num_grad_steps=6, mom2_n_samples=50, mom2_dtype="float64",
        tokens_per_batch=512, **others,
    )  # fmt: skip


@pytest.fixture(scope="module")
def address():
    """Of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


@pytest.fixture(scope="module")
def two_workers(address, saved):
    with workers(2, address, saved, "float64", "cpu", settings()) as pool:
        yield pool


@pytest.fixture
def pool(two_workers):
    """Both workers with the model loaded, also where an earlier test has killed one."""
    while len(two_workers.places) < 2:
        list(two_workers.each("load", [()]))
    return two_workers


@pytest.fixture
def alone(saved):
    """The model and its tokenizer in this process."""
    return load(saved, "float64")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def many_facts() -> list[Fact]:
    """36 facts of many lengths; the last contradicts an earlier one, as a later round may."""
    places = ("France", "Italy", "Germany", "Mount Fuji", "the old town of Lyon")
    facts = [Fact("The capital of {} is", f"{place}{' again' * n}", "Rome") for n in range(1, 7) for place in places]
    return [*facts, *tiny_facts(), Fact("{} stands in", "Rome", "Italy"), Fact("{} stands in", "Mount Fuji", "Japan")]


def assert_as_one_process(store: Store, alone, facts: list[Fact]) -> None:
    kept = len(store.entries())
    for chosen in (facts[:-1], facts[-1:]):
        expected = EditSession(*alone, settings()).values(chosen)
        found = EditSession(*alone, settings(store=str(store.folder))).values(chosen)
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)
    assert len(store.entries()) == kept == len(facts)  # all that was found was there


class KillingStore(Store):
    """Stops a process before it is handed a shard, and kills it when another's values have come."""

    def kill(self, process: int) -> None:
        self.process, self.signals = process, [signal.SIGKILL, signal.SIGSTOP]

    def get(self, address):
        if len(self.signals) == 2:
            os.kill(self.process, self.signals.pop())
        return super().get(address)

    def put(self, *arguments):
        if self.signals:
            os.kill(self.process, self.signals.pop())
        super().put(*arguments)


def process_of_one(pool) -> int:
    return next(iter(pool.places.values()))[1]


def test_the_workers_are_on_both_nodes(pool):
    def node(_) -> str:
        return ray.get_runtime_context().get_node_id()

    assert len(set(ray.get([worker.__ray_call__.remote(node) for worker in pool.places]))) == 2


def test_values_are_those_of_one_process(pool, store, alone):
    facts = many_facts()
    filled = fill_store(store, [*facts, facts[0]], pool)
    assert (filled.computed, filled.read, filled.repeated, filled.failed) == (36, 0, 1, [])
    assert_as_one_process(store, alone, facts)


def test_what_the_store_has_is_not_handed_out(pool, store, monkeypatch):
    facts = many_facts()
    assert fill_store(store, facts[:9], pool).computed == 9
    handed_out = []
    each = type(pool).each

    def listening(self, method, shards):
        shards = list(shards)
        handed_out.extend(prompt.text for shard in shards for prompt in shard[0] if method == "values")
        return each(self, method, shards)

    monkeypatch.setattr(type(pool), "each", listening)
    filled = fill_store(store, facts[:15], pool)
    assert (filled.computed, filled.read) == (6, 9)
    assert sorted(handed_out) == sorted(f"{fact.text} {fact.target_new}" for fact in facts[9:15])


def test_a_killed_worker_costs_its_shard_only(pool, tmp_path, alone):
    facts, store, lost = many_facts(), KillingStore(tmp_path / "store"), pool.lost
    killed = process_of_one(pool)
    store.kill(killed)
    assert fill_store(store, facts, pool).computed == len(facts)
    assert pool.lost == lost + 1  # shards of at most this many facts were computed once more:
    assert len(facts) > 2 * FACTS_PER_SHARD
    assert_as_one_process(store, alone, facts)


def test_moments_are_those_of_one_process(pool, alone, tmp_path):
    text = tmp_path / "river.txt"
    text.write_text("".join(f"The river runs through {n} old towns because of rain.\n" * (n % 4) for n in range(900)))
    model, tokenizer = alone
    for dataset, kept_in in (("self", "store"), (str(text), "stats_dir")):
        here = settings(mom2_dataset=dataset, stats_dir=str(tmp_path / "here"))
        there = settings(mom2_dataset=dataset, **{kept_in: str(tmp_path / kept_in)})
        here.mom2_n_samples = there.mom2_n_samples = 50 if dataset == "self" else 1000
        expected = second_moments(Layout.of(model), tokenizer, here)
        found = second_moments(Layout.of(model), tokenizer, there, measure_on(pool))
        again = second_moments(Layout.of(model), tokenizer, there)  # from where they are kept
        for layer in LAYERS:
            assert torch.allclose(found[layer], expected[layer], rtol=1e-10, atol=1e-12)
            assert torch.equal(found[layer], again[layer])
    assert len(Store(tmp_path / "store").entries()) == len(LAYERS)
    assert len(list((tmp_path / "stats_dir").rglob("*.npz"))) == len(LAYERS)


def test_moments_outlive_a_worker_and_go_on_from_a_stop(pool, alone):
    model, tokenizer = alone
    layout, lost = Layout.of(model), pool.lost
    batches = list(token_batches(layout, tokenizer, settings(), 0))
    assert len(batches) == 7
    expected = measure_moments(layout, LAYERS, batches)
    killed = process_of_one(pool)
    os.kill(killed, signal.SIGSTOP)  # it is handed a part, and does not finish it
    threading.Timer(0.5, os.kill, (killed, signal.SIGKILL)).start()
    seen = []
    stopped = measure_moments(layout, LAYERS, batches[:2])
    found = measure_on(pool)(layout, tokenizer, settings(), LAYERS, stopped, lambda sums: seen.append(sums.batches))
    assert seen == [3, 4, 5, 6, 7]
    assert pool.lost == lost + 1
    assert found.tokens == expected.tokens
    assert all(torch.allclose(found.sums[n], expected.sums[n], rtol=1e-10, atol=1e-12) for n in LAYERS)


def test_a_workers_own_error_is_raised_as_it_is(pool, store):
    with pytest.raises(FactError, match="64 positions") as raised:
        fill_store(store, [*tiny_facts(), Fact("{} is", "A" * 200, "Rome")], pool)
    assert type(raised.value) is FactError
    assert fill_store(store, tiny_facts(), pool).computed == 4  # the workers go on


def test_another_model_on_a_host_is_noticed(pool, alone):
    model, tokenizer = alone
    with torch.no_grad():
        model.transformer.ln_f.weight[0] += 1e-6
    with pytest.raises(ClusterError, match="another model"):
        measure_on(pool)(Layout.of(model), tokenizer, settings(), LAYERS, MomentSums({}), lambda sums: None)


class Poison:
    """Kills the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_shard_that_kills_workers_is_given_up(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "DEATHS", 2)
    with pytest.raises(ClusterError, match="2 workers died of the same shard"):
        list(pool.each("encode", [(Poison(),)]))
