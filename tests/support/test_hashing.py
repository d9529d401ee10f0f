"""Hashes of plain values."""

from __future__ import annotations

from nse_plugin.support.hashing import hash_of


def test_the_order_of_keys_plays_no_part_and_everything_else_does():
    own = hash_of({"a": 1, "b": [1, 2]})
    assert hash_of({"b": [1, 2], "a": 1}) == own
    assert len({own, hash_of({"a": 1, "b": [2, 1]}), hash_of({"a": 1.0, "b": [1, 2]}), hash_of({"a": 1})}) == 4


def test_it_is_the_same_tomorrow():
    """Stores keep values under it: another number here makes everyone compute again."""
    assert hash_of({"a": 1}) == "f9d86028c6e0d64e225186f96acb69338b2c59764df79162107f5c4bb34d1310"
