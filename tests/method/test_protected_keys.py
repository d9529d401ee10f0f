"""`LayerKeys`: keys kept one by one or as their f x f product, in whichever rounds they were added."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nse_plugin.method.protected_keys import LayerKeys, ProtectedKeys

F = 6


def keys(count, seed=0):
    return torch.randn(count, F, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(rounds=st.lists(st.integers(0, 9), min_size=1, max_size=6), neurons=st.sets(st.integers(0, F - 1), min_size=1))
def test_rounds_add_up_to_the_product_of_all_keys(rounds, neurons):
    everything = keys(sum(rounds))
    chosen = torch.tensor(sorted(neurons))
    protected = LayerKeys.of(everything[:0])
    for new in everything.split(rounds):
        protected = protected.extended(new)
    expected = everything[:, chosen].T @ everything[:, chosen]
    assert torch.allclose(protected.product(chosen), expected, rtol=1e-12, atol=1e-12)
    assert protected.count == len(everything)


def test_memory_grows_until_there_are_as_many_keys_as_neurons():
    """5 keys of 6 neurons are kept as they are; the sixth and all that follow are in the square alone."""
    protected = LayerKeys.of(keys(5))
    assert (len(protected.keys), protected.square) == (5, None)
    for _ in range(3):
        protected = protected.extended(keys(1))
        assert (len(protected.keys), protected.square.shape) == (0, (F, F))
    assert protected.count == 8
    assert len(protected.extended(keys(2)).keys) == 0


def test_later_keys_join_the_square_a_few_at_a_time():
    f = 64
    everything = torch.randn(f + 9, f, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    protected = LayerKeys.of(everything[:f])
    waiting = []
    for key in everything[f:].split(1):
        protected = protected.extended(key)
        waiting.append(len(protected.keys))
    assert waiting == [1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert torch.allclose(protected.product(torch.arange(f)), everything.T @ everything, rtol=1e-12, atol=1e-10)


def test_neither_the_old_nor_the_new_knowledge_changes_the_other():
    for few_or_many in (2, 9):
        old = ProtectedKeys().extended({3: keys(few_or_many)})
        before = old.of(3, keys(0)).product(torch.arange(F)).clone()
        new = old.extended({3: keys(5, seed=1)})
        assert torch.equal(old.of(3, keys(0)).product(torch.arange(F)), before)
        assert (old.count, new.count) == (few_or_many, few_or_many + 5)
        assert old.extended({3: keys(0)}).of(3, keys(0)) is old.of(3, keys(0))


def test_two_that_go_on_from_the_same_keys_do_not_meet():
    old = LayerKeys.of(keys(1)).extended(keys(1, seed=1))
    first = old.extended(keys(1, seed=2))
    second = old.extended(keys(1, seed=3))
    for branch, seed in ((first, 2), (second, 3)):
        assert torch.equal(branch.keys, torch.cat([keys(1), keys(1, seed=1), keys(1, seed=seed)]))


def test_the_memory_of_a_rounds_keys_is_shared_with_whoever_keeps_the_round():
    rounds = [keys(2), keys(3, seed=1)]
    protected = LayerKeys.of(rounds[0]).extended(rounds[1])
    assert [part.data_ptr() for part in protected.parts if len(part)] == [k.data_ptr() for k in rounds]


def test_keys_that_wait_are_saved_beside_the_square():
    f = 64
    everything = torch.randn(f + 2, f, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    knowledge = ProtectedKeys().extended({1: everything[:f]}).extended({1: everything[f:]})
    tensors = knowledge.tensors()
    assert (len(tensors["keys.1"]), tensors["square.1"].shape) == (2, (f, f))
    again = ProtectedKeys.from_tensors(tensors).extended({1: everything[:1]}).of(1, everything[:0])
    assert again.count == f + 3
    whole = torch.cat([everything, everything[:1]])
    assert torch.allclose(again.product(torch.arange(f)), whole.T @ whole, rtol=1e-12, atol=1e-10)


def test_rounds_in_and_out_of_inference_mode():
    with torch.inference_mode():
        protected = LayerKeys.of(keys(1)).extended(keys(1))
    assert len(protected.extended(keys(1)).extended(keys(1)).keys) == 4


def test_keys_alone_as_an_earlier_version_kept_them_are_read():
    again = ProtectedKeys.from_tensors({"keys.3": keys(2)})
    assert again.count == 2
    assert torch.equal(again.of(3, keys(0)).keys, keys(2))


def test_it_comes_back_from_its_tensors():
    for count in (2, 7):
        knowledge = ProtectedKeys().extended({1: keys(count), 2: keys(count, seed=1)})
        again = ProtectedKeys.from_tensors(knowledge.tensors())
        assert again.count == count
        for layer in (1, 2):
            product = knowledge.of(layer, keys(0)).product(torch.arange(F))
            assert torch.equal(again.of(layer, keys(0)).product(torch.arange(F)), product)


def test_squares_are_summed_in_float64():
    """Thousands of rounds add up without loss, whatever the model's dtype."""
    everything = keys(3000)
    protected = LayerKeys.of(everything[:0].float())
    for new in everything.float().split(7):
        protected = protected.extended(new)
    exact = everything.float().double()
    assert torch.allclose(protected.square, exact.T @ exact, rtol=1e-12, atol=1e-10)
