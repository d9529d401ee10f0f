"""A gradient step of z, for a fact, and what comes before the first.

The difference between a short and a longer run is the cost of steps alone; the rest of our short run, less its steps,
is the prefix: tokens, prefix and suffix passes, which peers have not. The learning rate is so small that no fact is
done early. Peers go fact by fact and are timed on two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from benchmarks.clock import Run, Seconds, cpu_seconds, in_turns
from benchmarks.comparisons.row import Peer, Plan, Row, agree, ours
from benchmarks.facts import RELATION_LENGTHS, make_facts
from benchmarks.setting import Setting
from nse_plugin.facts import Fact

FEW, MANY = 2, 4  # evaluations of the loss; a step follows all but the last
SLOW = 1e-4
TOLERANCE = 1e-3


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Stages `z step` and `prefix`, seconds a fact; 50 facts at the middle length only."""
    for relation in RELATION_LENGTHS:
        counts = plan.counts(1, 10, 50) if relation == 3 else plan.counts(1, 10)
        facts = make_facts(max(counts), relation)
        two = facts[:2]
        found = setting.session(v_num_grad_steps=MANY).values(two)
        differences = {
            peer.name: agree(found, torch.stack([peer.value(fact, MANY) for fact in two]), TOLERANCE, f"z, {peer.name}")
            for peer in peers
        }
        runs: dict[str, Run] = {peer.name: partial(_peer_seconds, peer, two) for peer in peers}
        runs |= {ours(n): partial(_our_seconds, setting, facts[:n]) for n in counts}
        times = in_turns(runs, plan.repeats, budget=60)
        for n in counts:
            for peer in peers:
                yield Row.of("values", "z step", n, relation, peer.name, times, differences[peer.name], ours(n))
            yield Row.of("values", "prefix", n, relation, peers[0].name, times, None, ours(n))


def _peer_seconds(peer: Peer, facts: Sequence[Fact]) -> Seconds:
    few, many = (cpu_seconds(_peer_values, peer, facts, steps) for steps in (FEW, MANY))
    return {"z step": (many - few) / (MANY - FEW) / len(facts)}


def _peer_values(peer: Peer, facts: Sequence[Fact], steps: int) -> None:
    for fact in facts:
        peer.value(fact, steps, SLOW)


def _our_seconds(setting: Setting, facts: Sequence[Fact]) -> Seconds:
    few, many = (cpu_seconds(setting.session(v_num_grad_steps=steps, v_lr=SLOW).values, facts) for steps in (FEW, MANY))
    step = (many - few) / (MANY - FEW)
    return {"z step": step / len(facts), "prefix": (few - (FEW - 1) * step) / len(facts)}
