"""Fingerprints: equal for equal bits, whatever the layout in memory; different for any change."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nse_plugin.models.fingerprint import fingerprint

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def matrix(rows=5, columns=7, dtype=torch.float32):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_has_the_same_and_reading_changes_nothing(dtype):
    tensor = matrix(dtype=dtype)
    copy = tensor.clone()
    assert fingerprint(tensor) == fingerprint(copy)
    assert torch.equal(tensor, copy)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 4), st.integers(0, 6), st.integers(0, 63))
def test_one_bit_makes_another(dtype, row, column, bit):
    tensor = matrix(dtype=dtype)
    changed = tensor.clone()
    integers = BITS[dtype]
    size = torch.iinfo(integers).bits
    flip = -(2 ** (size - 1)) if bit % size == size - 1 else 2 ** (bit % size)
    changed.view(integers)[row, column] ^= torch.tensor(flip, dtype=integers)
    assert fingerprint(changed) != fingerprint(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("change", [lambda t: t.flip(0), lambda t: t.flip(1), lambda t: t.T, lambda t: -t])
def test_order_and_sign_count(change, dtype):
    tensor = matrix(6, 6, dtype)
    assert fingerprint(change(tensor)) != fingerprint(tensor)


def test_views_count_as_what_they_show():
    tensor = matrix(9, 4)
    assert fingerprint(tensor.T) == fingerprint(tensor.T.contiguous())
    assert fingerprint(tensor[::2]) == fingerprint(tensor[::2].clone())


def test_rows_behind_the_first_chunk_count():
    tensor = matrix(2500, 3)
    for row in (0, 1023, 1024, 2499):
        changed = tensor.clone()
        changed[row, 1] += 1
        assert fingerprint(changed) != fingerprint(tensor)


def test_it_is_the_same_tomorrow():
    """Fingerprints are written into files: another number here makes everyone measure again."""
    assert fingerprint(torch.arange(12, dtype=torch.float32).reshape(3, 4)) == -28251207878306048


def test_the_random_state_is_untouched():
    state = torch.get_rng_state()
    fingerprint(matrix())
    assert torch.equal(torch.get_rng_state(), state)
