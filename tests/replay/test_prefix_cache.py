"""Prefixes that are cached are not run again."""

from __future__ import annotations

import torch

from nse_plugin.replay.prefix_cache import PASS, PASS_ON_GPU, packs_by_length

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_rows_part_where_their_padding_would_cost_more_than_a_pass():
    assert PASS == 24
    assert packs_by_length([5, 3, 5, 3], CPU) == [[1, 3, 0, 2]]  # two rows by two tokens
    assert packs_by_length([3] * 13 + [5] * 9, CPU) == [list(range(13)), list(range(13, 22))]  # thirteen by two
    assert packs_by_length([3] * 13 + [5] * 9, GPU) == [list(range(22))]
    assert packs_by_length([1] * (PASS_ON_GPU + 1) + [2], GPU)[1:] == [[PASS_ON_GPU + 1]]
