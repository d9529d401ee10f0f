"""Second moments of five layers. Facts play no part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.clock import in_turns, stage
from benchmarks.comparisons.row import OURS, Peer, Plan, Row, agree
from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting, text_windows
from nse_plugin.models.moments import measure_moments

LAYERS, WINDOWS = 5, 16
TOLERANCE = 1e-4


def compare(setting: Setting, peers: Sequence[Peer], plan: Plan) -> Iterator[Row]:
    """Stage `moments`."""
    peer, layout = StandIn(setting), setting.layout
    first = setting.hparams.layers[0]
    layers = range(first, min(first + LAYERS, len(layout.layers)))
    rows = text_windows(setting.model, WINDOWS)
    expected, found = peer.moments(rows, layers), measure_moments(layout, layers, [rows])
    difference = max(
        agree(found.sums[layer] / found.tokens, expected[layer], TOLERANCE, f"second moments of layer {layer}")
        for layer in layers
    )
    runs = {
        peer.name: stage("moments", peer.moments, rows, layers),
        OURS: stage("moments", measure_moments, layout, layers, [rows]),
    }
    yield Row.of("moments", "moments", 0, None, peer.name, in_turns(runs, plan.repeats), difference)
