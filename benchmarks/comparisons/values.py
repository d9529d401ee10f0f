"""A gradient step of z, for a fact, and what comes before the first.

Every side steps with torch's Adam, whose steps are timed as they go by: one takes the time between two. What a run of
ours takes beyond its steps is the prefix: tokens, prefix and suffix passes, which peers have not. The learning rate is
so small that no fact is done early. Peers go fact by fact and are timed on two.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from benchmarks.clock import Run, Seconds, cpu_seconds, in_turns
from benchmarks.comparisons.row import OURS, Peer, Plan, Row, agree
from benchmarks.facts import RELATION_LENGTHS, make_facts
from benchmarks.setting import Setting
from nse_plugin.facts import Fact

EVALUATIONS = 4  # of the loss; a step follows all but the last
SLOW = 1e-4
TOLERANCE = 1e-3
AT_ONCE = f"{OURS}, at once"
TEN_AT_ONCE = 32_768  # tokens_per_batch


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Stages `z step` and `prefix`, seconds a fact; 50 facts at the middle length only. `z step, at once`: with ten
    facts and more in a batch, which is faster and takes more memory than the preset's `tokens_per_batch`."""
    for relation in RELATION_LENGTHS:
        counts = plan.counts(1, 10, 50) if relation == 3 else plan.counts(1, 10)
        facts = make_facts(max(counts), relation)
        two = facts[:2]
        found = setting.session(v_num_grad_steps=EVALUATIONS).values(two)
        differences = {
            peer.name: agree(
                found, torch.stack([peer.value(fact, EVALUATIONS) for fact in two]), TOLERANCE, f"z, {peer.name}"
            )
            for peer in peers
        }
        for n in counts:
            runs: dict[str, Run] = {peer.name: partial(_peer_seconds, peer, two) for peer in peers}
            runs[OURS] = partial(_our_seconds, setting, facts[:n])
            if n > 1:
                runs[AT_ONCE] = partial(_our_seconds, setting, facts[:n], tokens_per_batch=TEN_AT_ONCE)
            times = in_turns(runs, plan.repeats)
            for peer in peers:
                yield Row.of("values", "z step", n, relation, peer.name, times, differences[peer.name])
                if n > 1:
                    yield Row.of("values", "z step, at once", n, relation, peer.name, times, None, AT_ONCE, "z step")
            yield Row.of("values", "prefix", n, relation, peers[0].name, times, None)


def _peer_seconds(peer: Peer, facts: Sequence[Fact]) -> Seconds:
    _, step = _seconds(lambda: [peer.value(fact, EVALUATIONS, SLOW) for fact in facts])
    return {"z step": step / len(facts)}


def _our_seconds(setting: Setting, facts: Sequence[Fact], **changed: int) -> Seconds:
    session = setting.session(v_num_grad_steps=EVALUATIONS, v_lr=SLOW, **changed)
    whole, step = _seconds(partial(session.values, facts))
    return {"z step": step / len(facts), "prefix": (whole - (EVALUATIONS - 1) * step) / len(facts)}


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of the work, and of one step: one of every optimizer that takes part, the median of its own."""
    steps: dict[Optimizer, list[float]] = {}

    def note(optimizer: Optimizer, *_: Any) -> None:
        steps.setdefault(optimizer, []).append(time.process_time())

    hook = register_optimizer_step_post_hook(note)
    try:
        whole = cpu_seconds(work)
    finally:
        hook.remove()
    return whole, sum(statistics.median(b - a for a, b in pairwise(times)) for times in steps.values())
