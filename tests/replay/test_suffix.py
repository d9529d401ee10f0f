"""Suffixes are run up to the layer where delta is added, and from there on again for every delta."""

from __future__ import annotations

import torch

from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.first_use import check_once
from nse_plugin.replay.suffix import SuffixReplay


def test_suffixes_are_run_up_to_the_layer_where_delta_enters(seen, rows):
    layout, tokens = seen
    check_once(layout, [1], rows)
    tokens[:] = [0] * len(tokens)
    replay = SuffixReplay(layout, 1, rows, ContextStates())
    assert tokens[0] == tokens[1] > tokens[2] > tokens[3] == 0  # of the last layer, only keys and values are wanted
    below, above = tokens[1], tokens[2]
    wanted = torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0])
    replay.logits(torch.zeros(len(rows), 16, dtype=torch.float64), *wanted)
    assert tokens[:2] == [below, below]
    assert tokens[2] - above == sum(len(row.ids) - row.lookup for row in rows)  # the suffixes, without padding
    assert tokens[3] == 2  # of the last layer, what is wanted
