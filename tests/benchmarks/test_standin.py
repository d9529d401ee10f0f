"""The stand-in computes the same as this package; otherwise their times could not be compared."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_facts

from benchmarks.peers.standin import StandIn
from benchmarks.setting import Setting, relative_difference, text_windows
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.method.subspace import Neurons
from nse_plugin.method.update import LayerSystem, solve_update
from nse_plugin.moments.measure import measure_moments


def test_values(setting: Setting) -> None:
    facts = tiny_facts()
    found = setting.session().values(facts)
    expected = torch.stack([StandIn(setting).value(fact) for fact in facts])
    assert relative_difference(found, expected) <= 1e-8


def test_keys_and_outputs(setting: Setting) -> None:
    facts, peer = tiny_facts(), StandIn(setting)
    keys, outputs = FactSpan(setting.layout, [1, 2], setting.encoded(facts), 4096).run()
    for layer in (1, 2):
        assert relative_difference(keys[layer], peer.keys(facts, layer)) <= 1e-10
    assert relative_difference(outputs, peer.outputs(facts)) <= 1e-10


@pytest.mark.parametrize("p", [1.0, 0.8])
def test_solve(setting: Setting, p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    keys, protected = (torch.randn(n, 40, generator=generator, dtype=torch.float64) for n in (3, 5))
    residuals = torch.randn(3, 16, generator=generator, dtype=torch.float64)
    neurons = torch.arange(int(40 * p))
    moment = setting.moments[1]
    weight = setting.hparams.mom2_update_weight
    expected = StandIn(setting).solve(keys, residuals, moment, protected.T @ protected, neurons)
    found = solve_update(keys, residuals, LayerSystem(moment, LayerKeys.of(protected), weight), Neurons(neurons))
    assert relative_difference(found, expected) <= 1e-10


def test_weight_changes(setting: Setting) -> None:
    facts = tiny_facts()
    values = setting.session().values(facts)
    with setting.restored() as originals:
        setting.session().edit_with_values(facts, values)
        found = setting.change_since(originals)
    with setting.restored() as originals:
        StandIn(setting).edit(facts, values)
        expected = setting.change_since(originals)
    assert expected.norm() > 1e-3
    assert relative_difference(found, expected) <= 1e-10
    with setting.restored() as originals:
        assert setting.change_since(originals).norm() == 0


def test_moments(setting: Setting) -> None:
    rows = text_windows(setting.model, 3, 20)
    expected = StandIn(setting).moments(rows, [1, 2])
    sums = measure_moments(setting.layout, [1, 2], [rows])
    for layer in (1, 2):
        assert relative_difference(sums.sums[layer] / sums.tokens, expected[layer]) <= 1e-10
