"""Keys and residuals of all edited layers on the unedited weights. Peers are timed on at most ten facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from benchmarks.clock import Run, Seconds, cpu_seconds, in_turns
from benchmarks.comparisons.row import Peer, Plan, Row, agree, ours
from benchmarks.facts import make_facts
from benchmarks.setting import Setting
from nse_plugin.facts import Fact
from nse_plugin.method.keys import FactSpan

SAMPLE = 10
TOLERANCE = 1e-4


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield the stages `keys` and `residuals` in seconds per fact. A run of ours gives both; both show its time."""
    for timed, wanted in ((1, (1,)), (SAMPLE, (10, 50))):
        sample, counts = make_facts(*plan.counts(timed)), plan.counts(*wanted)
        differences = {peer.name: _difference(setting, peer, sample) for peer in peers}
        runs: dict[str, Run] = {peer.name: partial(_peer_seconds, setting, peer, sample) for peer in peers}
        runs |= {ours(n): partial(_our_seconds, setting, make_facts(n)) for n in counts}
        times = in_turns(runs, plan.repeats, budget=60)
        for n in counts:
            for peer in peers:
                for stage in ("keys", "residuals"):
                    yield Row.of("keys", stage, n, 3, peer.name, times, differences[peer.name], ours(n))


def _difference(setting: Setting, peer: Peer, facts: Sequence[Fact]) -> float:
    keys, h = _span(setting, facts)
    return max(
        agree(h, peer.outputs(facts), TOLERANCE, f"h, {peer.name}"),
        *(agree(keys[layer], peer.keys(facts, layer), TOLERANCE, f"keys, {peer.name}") for layer in keys),
    )


def _span(setting: Setting, facts: Sequence[Fact]) -> tuple[dict[int, Tensor], Tensor]:
    hparams = setting.hparams
    return FactSpan(setting.layout, hparams.layers, setting.encoded(facts), hparams.tokens_per_batch).run()


def _our_seconds(setting: Setting, facts: Sequence[Fact]) -> Seconds:
    return dict.fromkeys(("keys", "residuals"), cpu_seconds(_span, setting, facts) / len(facts))


def _peer_seconds(setting: Setting, peer: Peer, facts: Sequence[Fact]) -> Seconds:
    layers = setting.hparams.layers
    keys = sum(cpu_seconds(peer.keys, facts, layer) for layer in layers)
    residuals = sum(cpu_seconds(peer.outputs, facts) for _ in layers)
    return {"keys": keys / len(facts), "residuals": residuals / len(facts)}
