"""Keys and values of context templates are computed once, on the current weights."""

from __future__ import annotations

import pytest
import torch

from nse_plugin.replay.context_states import ContextStates


def test_a_template_is_run_once_whatever_was_met_before(seen, rows):
    layout, tokens = seen
    states, others = ContextStates(), ContextStates()
    whole = states.of(layout, rows)
    assert tokens[0] == sum(
        len(context) for context in {row.ids[: row.context] for row in rows}
    )  # one by one: no padding
    others.of(layout, rows[3:])
    ours, before = others.of(layout, rows), tokens[0]
    for layer in whole.layers_run:
        for found, expected in zip(ours.states(layer), whole.states(layer), strict=True):
            assert torch.equal(found, expected)
    states.of(layout, rows)
    others.of(layout, rows[::-1])
    assert tokens[0] == before
    short = min(rows, key=lambda row: row.context)
    assert others.of(layout, [short]).width == short.context  # no padding for others' sake


@pytest.mark.parametrize("how", ["in place", "through data", "another tensor"])
def test_templates_are_run_again_on_other_weights(seen, rows, how):
    layout, _ = seen
    states = ContextStates()
    before = states.of(layout, rows)
    weight = layout.layers[0].self_attn.k_proj.weight
    with torch.no_grad():
        if how == "in place":
            weight[1, 1] *= 2  # torch's count alone can tell
        elif how == "through data":
            weight.data[:, 3] *= 2  # a neuron's column
        else:
            weight.data = weight * 2
    for states_now in (states, ContextStates()):
        now = states_now.of(layout, rows)
        assert not torch.allclose(now.states(0)[0], before.states(0)[0])
        assert torch.equal(now.states(0)[0], ContextStates().of(layout, rows).states(0)[0])
