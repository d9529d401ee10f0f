"""The linear system of one layer with the protected keys of 100 earlier facts, for all neurons and for 80% of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from benchmarks.clock import in_turns, stage
from benchmarks.comparisons.row import OURS, Peer, Plan, Row, agree
from benchmarks.facts import make_facts
from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.method.subspace import Neurons
from nse_plugin.method.update import LayerSystem, solve_update

PROTECTED = 100
TOLERANCE = 1e-3  # the system is badly conditioned


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield the stages `solve, p = 1` and `solve, p = 0.8`."""
    peer, hparams = StandIn(setting), setting.hparams
    layer = hparams.layers[0]
    moment = setting.moments[layer]
    for n in plan.counts(1, 10, 50):
        facts = setting.encoded([*make_facts(n), *make_facts(PROTECTED, relation=1)])
        every, h = FactSpan(setting.layout, hparams.layers, facts, hparams.tokens_per_batch).run()
        keys, earlier, residuals = every[layer][:n], every[layer][n:], h[:n]
        protected, gram = LayerKeys.of(earlier), earlier.double().T @ earlier.double()
        for p in (1.0, 0.8):
            neurons = torch.arange(round(p * len(moment)))
            ours = (keys, residuals, LayerSystem(moment, protected, hparams.mom2_update_weight), Neurons(neurons))
            theirs = (keys, residuals, moment, gram, neurons)
            name = f"solve, p = {p:g}"
            difference = agree(solve_update(*ours).flatten(), peer.solve(*theirs).flatten(), TOLERANCE, name)
            runs = {peer.name: stage(name, peer.solve, *theirs), OURS: stage(name, solve_update, *ours)}
            yield Row.of("solve", name, n, None, peer.name, in_turns(runs, plan.repeats), difference)
