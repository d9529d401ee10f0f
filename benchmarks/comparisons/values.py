"""One gradient step of z per fact, and the work before the first step.

Every side uses torch's Adam, and a hook records when each of its steps ends: the time of a step is that between two
such records. The rest of our run is the stage `prefix`: tokenising, and the passes over prefixes and suffixes, which
peers do not have. The learning rate is so small that no fact stops early. Peers process one fact at a time and are
timed on two facts.
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

EVALUATIONS = 4  # of the loss; every one but the last is followed by a step
SLOW = 1e-4
TOLERANCE = 1e-3
AT_ONCE = f"{OURS}, at once"
TEN_AT_ONCE = 32_768  # tokens_per_batch


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield the stages `z step` and `prefix` in seconds per fact; 50 facts only for relations of three tokens.

    `z step, at once`: batches of ten or more facts, which are faster and take more memory than the preset's
    `tokens_per_batch`.
    """
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
    """Return the CPU seconds of the work, and of one step.

    The second number is the sum, over all optimizers that the work uses, of the median time of their steps.
    """
    steps: dict[Optimizer, list[float]] = {}

    def note(optimizer: Optimizer, *_: Any) -> None:
        steps.setdefault(optimizer, []).append(time.process_time())

    hook = register_optimizer_step_post_hook(note)
    try:
        whole = cpu_seconds(work)
    finally:
        hook.remove()
    return whole, sum(statistics.median(b - a for a, b in pairwise(times)) for times in steps.values())
