"""GRACE's codebook against its definition in the paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nse_plugin.baselines.grace import Codebook


def test_the_nearest_key_answers_for_every_position(book):
    distance, entry = book.nearest(torch.tensor([[[0.6, 0.8], [3.0, 0.0]], [[9.0, 0.0], [1.5, 0.0]]]))
    assert distance.tolist() == pytest.approx(torch.tensor([[1.0, 1.0], [5.0, 1.5]]))
    assert entry.tolist() == [[0, 1], [1, 0]]


def test_distances_near_a_key_are_exact():
    """A radius is small beside a key; the usual shortcut through a matrix product would drown it."""
    keys = 30 * torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    near = keys.clone()
    near[:, 0] += 0.01
    distance, entry = Codebook(keys, torch.zeros(40, 1), torch.ones(40), ((1,),) * 40).nearest(near)
    assert entry.tolist() == list(range(40))
    assert distance.tolist() == pytest.approx([0.01] * 40, rel=1e-3)


def test_a_far_edit_gets_its_own_entry(book):
    after, entry = book.placed(torch.tensor([0.0, 2.1]), torch.tensor([5.0, 5.0, 5.0]), (7,), eps=1.0)
    assert entry == 2
    assert after.keys[2].tolist() == pytest.approx([0.0, 2.1])
    assert after.values[2].tolist() == [5.0, 5.0, 5.0]
    assert after.radii.tolist() == [1.0, 2.0, 1.0]
    assert after.labels == ((7,), (8, 9), (7,))


def test_an_edit_of_the_same_label_nearby_expands_the_radius(book):
    after, entry = book.placed(torch.tensor([0.0, 1.9]), torch.zeros(3), (7,), eps=1.0)
    assert entry == 0
    assert after.radii.tolist() == pytest.approx([1.9, 2.0])
    assert torch.equal(after.keys, book.keys)
    assert torch.equal(after.values, book.values)


def test_an_edit_inside_the_radius_leaves_it(book):
    after, entry = book.placed(torch.tensor([4.0, 1.5]), torch.zeros(3), (8, 9), eps=1.0)
    assert entry == 1
    assert after.radii.tolist() == [1.0, 2.0]


def test_an_edit_of_another_label_nearby_splits_the_radii(book):
    after, entry = book.placed(torch.tensor([0.0, 1.2]), torch.zeros(3), (5,), eps=1.0)
    assert entry == 2
    assert after.radii.tolist() == pytest.approx([0.6, 2.0, 0.6])
    assert after.labels[2] == (5,)


def test_a_split_never_widens_a_radius(book):
    narrow = replace(book, radii=torch.tensor([0.1, 2.0]))
    after, _ = narrow.placed(torch.tensor([0.0, 1.0]), torch.zeros(3), (5,), eps=1.0)
    assert after.radii.tolist() == pytest.approx([0.1, 2.0, 0.5])


def test_the_same_prompt_with_a_new_target_takes_the_entry_over(book):
    after, entry = book.placed(torch.tensor([0.0, 0.001]), torch.full((3,), 6.0), (5,), eps=1.0)
    assert entry == 0
    assert after.labels == ((5,), (8, 9))
    assert after.values[0].tolist() == [6.0, 6.0, 6.0]
    assert torch.equal(after.radii, book.radii)


def test_tensors_hold_everything(book):
    again = Codebook.from_tensors(book.tensors())
    assert again.labels == book.labels
    assert all(torch.equal(getattr(again, name), getattr(book, name)) for name in ("keys", "values", "radii"))
