"""A complete round of 20 facts with given second moments: z with the preset's steps, keys, residuals and update.

On both sides the optimisation of a fact's z may stop early. Each side is run once, because a run takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.clock import Run, Seconds, cpu_seconds, in_turns
from benchmarks.comparisons.row import OURS, Peer, Plan, Row, agree
from benchmarks.facts import make_facts
from benchmarks.setting import Setting
from nse_plugin.facts import Fact

FACTS, CHECKED = 20, 3
TOLERANCE = 1e-4
FAST = f"{OURS}, fast"
SOLVERS = {OURS: "exact", FAST: "fast"}
STAGES = ("z whole", "update", "whole")  # update: keys, residuals and solve, with the z of the same side


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield all stages for 20 facts and `z whole` for one; `..., fast`: with `solver: fast`, whose z differ.

    The difference of a row is that of the weight changes both sides compute from the same z.
    """
    (n,) = plan.counts(FACTS)
    facts = make_facts(n)
    few = facts[:CHECKED]
    z = setting.session().values(few)
    differences = {}
    for peer in peers:
        found = change(setting, partial(setting.session().edit_with_values, few, z))
        expected = change(setting, partial(peer.edit, few, z))
        differences[peer.name] = agree(found, expected, TOLERANCE, f"weight change, {peer.name}")
    for chosen, stages, repeats in ((facts[:1], STAGES[:1], plan.repeats), (facts, STAGES, 1)):
        runs: dict[str, Run] = {peer.name: partial(_peer_seconds, setting, peer, chosen) for peer in peers}
        runs |= {name: partial(_our_seconds, setting, chosen, solver) for name, solver in SOLVERS.items()}
        times = in_turns(runs, repeats, budget=30)
        for peer in peers:
            for stage in stages:
                yield Row.of("round", stage, len(chosen), 3, peer.name, times, differences[peer.name])
                if stage != "update":
                    yield Row.of("round", f"{stage}, fast", len(chosen), 3, peer.name, times, None, FAST, stage)


def change(setting: Setting, edit: Callable[[], object]) -> Tensor:
    """Return what an edit adds to the edited matrices, as one float64 vector; the weights are restored afterwards."""
    with setting.restored() as originals:
        edit()
        return setting.change_since(originals)


def _peer_seconds(setting: Setting, peer: Peer, facts: Sequence[Fact]) -> Seconds:
    return _seconds(setting, lambda: torch.stack([peer.value(fact) for fact in facts]), partial(peer.edit, facts))


def _our_seconds(setting: Setting, facts: Sequence[Fact], solver: str) -> Seconds:
    session = setting.session(solver=solver)
    return _seconds(setting, partial(session.values, facts), partial(session.edit_with_values, facts))


def _seconds(setting: Setting, values: Callable[[], Tensor], edit: Callable[[Tensor], object]) -> Seconds:
    made: list[Tensor] = []
    z = cpu_seconds(lambda: made.append(values()))
    with setting.restored():
        update = cpu_seconds(edit, *made)
    return dict(zip(STAGES, (z, update, z + update), strict=True))
