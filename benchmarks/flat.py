"""Does a round cost the same after many rounds? Time and memory of the first rounds compared with the last.

The values are made beforehand (h of the unedited model plus a little noise), so that a round consists of keys,
residuals and update only.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from benchmarks.clock import cpu_seconds
from benchmarks.facts import RELATION_LENGTHS, make_facts
from benchmarks.memory import resident
from benchmarks.setting import Setting
from nse_plugin.method.keys import FactSpan

FACTS_A_ROUND = 10  # SmolLM2 has 1,536 neurons: from round 154 on, Kp is kept as its f x f product
NOISE = 0.1  # relative to norm(h)
AROUND = 10  # number of first and of last rounds whose median is taken


@dataclass(frozen=True)
class Growth:
    """CPU seconds and resident MB of a round: medians of `AROUND` rounds from round 2 on, and of the last `AROUND`."""

    rounds: int
    early_seconds: float
    late_seconds: float
    early_mb: float
    late_mb: float


def measure(setting: Setting, rounds: int) -> Growth:
    """Edit the setting's model in `rounds` rounds, and restore its weights afterwards."""
    facts = [fact for relation in RELATION_LENGTHS for fact in make_facts(100, relation)]
    hparams = setting.hparams
    h = FactSpan(setting.layout, hparams.layers, setting.encoded(facts), hparams.tokens_per_batch).run()[1]
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(0)).to(h)
    z = h + NOISE * h.norm(dim=1, keepdim=True) * noise / noise.norm(dim=1, keepdim=True)
    seconds, memory = [], []
    with setting.restored():
        session = setting.session(max_iterations=2)  # one pass
        for number in range(rounds):
            places = [(number * FACTS_A_ROUND + i) % len(facts) for i in range(FACTS_A_ROUND)]
            chosen = [facts[i] for i in places]
            seconds.append(cpu_seconds(session.edit_with_values, chosen, z[places]))
            memory.append(resident("VmRSS"))
    early, late = slice(1, 1 + AROUND), slice(-AROUND, None)
    return Growth(
        rounds,
        statistics.median(seconds[early]),
        statistics.median(seconds[late]),
        statistics.median(memory[early]),
        statistics.median(memory[late]),
    )
