"""Second moments of five layers, without any facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.clock import in_turns, stage
from benchmarks.comparisons.row import OURS, Peer, Plan, Row, agree
from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting, text_windows
from nse_plugin.moments.measure import measure_moments

LAYERS, WINDOWS = 5, 16
DEEPER = 13  # GPT2-XL's first edited layer
TOLERANCE = 1e-4


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Yield the stages `moments` (layers from the preset's first one on) and `moments, deeper` (from `DEEPER` on)."""
    peer, layout = StandIn(setting), setting.layout
    rows = text_windows(setting.model, WINDOWS)
    for name, first in (("moments", setting.hparams.layers[0]), ("moments, deeper", DEEPER)):
        first = min(first, len(layout.layers) - 1)
        layers = range(first, min(first + LAYERS, len(layout.layers)))
        expected, found = peer.moments(rows, layers), measure_moments(layout, layers, [rows])
        difference = max(
            agree(found.sums[layer] / found.tokens, expected[layer], TOLERANCE, f"second moments of layer {layer}")
            for layer in layers
        )
        runs = {
            peer.name: stage(name, peer.moments, rows, layers),
            OURS: stage(name, measure_moments, layout, layers, [rows]),
        }
        yield Row.of("moments", name, 0, None, peer.name, in_turns(runs, plan.repeats), difference)
