"""Neuron selection, against trying all possible sets."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nse_plugin.method.neurons import select_neurons

# Whole numbers and eighths: every sum is exact, so "reaches p of the total" has no rounding in it.
KEYS = st.integers(1, 8).flatmap(
    lambda f: st.lists(st.lists(st.integers(-9, 9), min_size=f, max_size=f), min_size=1, max_size=3)
)
EIGHTHS = st.integers(1, 7).map(lambda n: n / 8)


def scores_of(keys):
    return keys.abs().sum(0)


@settings(max_examples=150, deadline=None)
@given(KEYS, EIGHTHS)
def test_paper_is_the_smallest_set_that_reaches_p(rows, p):
    keys = torch.tensor(rows, dtype=torch.float32)
    scores = scores_of(keys)
    assume(scores.sum() > 0)
    chosen = select_neurons(keys, p).tolist()
    assert chosen == sorted(set(chosen))
    assert scores[chosen].sum() >= p * scores.sum()
    for others in combinations(range(len(scores)), len(chosen) - 1):
        assert scores[list(others)].sum() < p * scores.sum()


@settings(max_examples=150, deadline=None)
@given(KEYS, EIGHTHS)
def test_released_stops_short_of_p_with_the_most_active_neurons(rows, p):
    keys = torch.tensor(rows, dtype=torch.float32)
    scores = scores_of(keys)
    assume(scores.sum() > 0)
    chosen = select_neurons(keys, p, "released").tolist()
    rest = sorted(set(range(len(scores))) - set(chosen), key=lambda j: -scores[j])
    if scores.max() > p * scores.sum():  # the authors' code has an IndexError here
        assert len(chosen) == 1
    else:
        assert scores[chosen].sum() <= p * scores.sum()
        assert scores[[*chosen, *rest[:1]]].sum() > p * scores.sum()
    assert all(scores[j] <= scores[chosen].min() for j in rest)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_p_1_is_every_neuron_also_a_silent_one(preset):
    keys = torch.tensor([[0.0, 1e-30, 5.0, 0.0]])
    assert select_neurons(keys, 1.0, preset).tolist() == [0, 1, 2, 3]


def test_activity_counts_whatever_its_sign_and_over_all_facts():
    keys = torch.tensor([[3.0, -4.0, 0.5], [-3.0, 0.0, 0.5]])
    assert select_neurons(keys, 0.5).tolist() == [0]
    assert select_neurons(keys, 0.6).tolist() == [0, 1]


def test_of_equals_the_first_is_taken():
    assert select_neurons(torch.ones(1, 6), 0.5).tolist() == [0, 1, 2]


def test_many_small_scores_in_half_precision_are_summed_exactly():
    """Summed in bfloat16, the total of 4096 ones would stop at 256."""
    assert len(select_neurons(torch.ones(16, 4096, dtype=torch.bfloat16), 0.75)) == 3072
