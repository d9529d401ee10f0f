"""Changed columns: found, checked, written, composed and read again, exact to the bit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from tiny import tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.patch.columns import (
    ChangedColumns,
    PatchError,
    check_on,
    columns_from,
    composed,
    difference,
    is_on,
    same_columns,
    tensors_of,
    write,
)

PARTS = ("neurons", "old", "new")
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def edited(model, columns=(0, 3, 5)):
    """Matrices, and their weights before columns of them were changed."""
    matrices = Layout.of(model).output_matrices([1, 2])
    before = {layer: matrix.weight.data.clone() for layer, matrix in matrices.items()}
    for matrix in matrices.values():
        matrix.matrix[:, list(columns)] += torch.randn(matrix.matrix.shape[0], len(columns)).to(matrix.matrix)
    return matrices, before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_written_back_and_forth_to_the_bit(kind, dtype):
    matrices, before = edited(tiny_model(kind, dtype))
    after = {layer: matrix.weight.data.clone() for layer, matrix in matrices.items()}
    columns = difference(matrices, before)
    assert [one.neurons.tolist() for one in columns.values()] == [[0, 3, 5]] * 2
    assert [one.transposed for one in columns.values()] == [kind == "gpt2"] * 2
    for which, expected in (("old", before), ("new", after)):
        write(columns, matrices, which)
        check_on(columns, matrices, which)
        for layer, matrix in matrices.items():
            assert torch.equal(matrix.weight.data, expected[layer])


def test_a_zero_s_sign_and_nan_are_changes():
    matrices = Layout.of(tiny_model("llama")).output_matrices([1])
    matrices[1].matrix[:, 2] = 0.0
    before = {1: matrices[1].weight.data.clone()}
    matrices[1].matrix[0, 2] = -0.0
    matrices[1].matrix[0, 4] = torch.nan
    columns = difference(matrices, before)
    assert columns[1].neurons.tolist() == [2, 4]
    assert difference(matrices, {1: matrices[1].weight.data.clone()}) == {}  # NaN equals itself


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_through_a_file(dtype):
    columns = difference(*edited(tiny_model("gpt2", dtype)))
    tensors, described = tensors_of(columns)
    again = columns_from(load(save(tensors)), json.loads(json.dumps(described)))
    assert list(again) == [1, 2]
    for layer, one in columns.items():
        assert (again[layer].name, again[layer].shape, again[layer].transposed) == (one.name, one.shape, True)
        assert all(torch.equal(getattr(again[layer], part), getattr(one, part)) for part in PARTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, a: t.pop("old.2"), "tensor old.2 is missing"),
        (lambda t, a: t.update(other=t["old.2"]), "tensor other is not described"),
        (lambda t, a: t.update({"old.2": t["old.2"][:2]}), "layer 2 has columns of shapes"),
        (lambda t, a: t.update({"old.2": t["old.2"].half()}), "layer 2 has columns of dtypes float16, float32"),
        (lambda t, a: t.update({"neurons.2": t["neurons.2"].flip(0)}), "not ascending numbers below"),
        (lambda t, a: t.update({"neurons.2": t["neurons.2"] - 1}), "not ascending numbers below"),
        (lambda t, a: a["2"].update(shape=[a["2"]["shape"][0], 5]), "not ascending numbers below 5"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, said):
    tensors, described = tensors_of(difference(*edited(tiny_model("llama", torch.float32))))
    change(tensors, described)
    with pytest.raises(PatchError, match=said):
        columns_from(tensors, described)


def test_another_model_is_refused_before_anything_is_written():
    model = tiny_model("llama", torch.float32)
    matrices, before = edited(model)
    columns = difference(matrices, before)
    with pytest.raises(
        PatchError, match=r"3 of 3 columns of model\.layers\.1\.mlp\.down_proj\.weight are not .* before"
    ):
        check_on(columns, matrices, "old")
    matrices[2].matrix[:, 3] += 1
    with pytest.raises(PatchError, match=r"1 of 3 columns of model\.layers\.2.* after the edit"):
        check_on(columns, matrices, "new")
    with pytest.raises(PatchError, match="here no such layer is edited"):
        check_on(columns, {1: matrices[1]}, "new")
    with pytest.raises(PatchError, match=r"is bfloat16 .* here and float32"):
        check_on(columns, Layout.of(model.to(torch.bfloat16)).output_matrices([1, 2]), "new")


def test_the_same_columns():
    columns = difference(*edited(tiny_model("llama", torch.float32)))
    assert same_columns(columns, difference(*edited(tiny_model("llama", torch.float32))))
    assert not same_columns(columns, {1: columns[1]})
    for part in ("old", "new"):
        values = getattr(columns[2], part).clone()
        values[0, 0] += 1
        assert not same_columns(columns, {**columns, 2: dataclasses.replace(columns[2], **{part: values})})
    fewer = dataclasses.replace(
        columns[2], **{part: getattr(columns[2], part)[1:] for part in ("neurons", "old", "new")}
    )
    assert not same_columns(columns, {**columns, 2: fewer})


def test_which_side_the_matrices_are_on():
    matrices, before = edited(tiny_model("llama", torch.float32))
    columns = difference(matrices, before)
    assert [is_on(columns, matrices, which) for which in ("old", "new")] == [False, True]
    write(columns, matrices, "old")
    assert [is_on(columns, matrices, which) for which in ("old", "new")] == [True, False]


matrices_of_bits = st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=3, max_size=3)


@settings(deadline=None, max_examples=60)
@given(st.tuples(matrices_of_bits, matrices_of_bits, matrices_of_bits))
def test_composed_is_the_difference_of_first_and_last(states):
    """Three states of a matrix [3, 4] of few different numbers, so that columns often change back."""
    one, two, three = (Plain(torch.tensor(state, dtype=torch.float32)) for state in states)

    def changed(before, after):
        return difference({1: after}, {1: before.weight})

    found, expected = composed(changed(one, two), changed(two, three)), changed(one, three)
    assert found.keys() == expected.keys()
    for layer, wanted in expected.items():
        assert all(
            torch.equal(getattr(found[layer], part), getattr(wanted, part)) for part in ("neurons", "old", "new")
        )


def test_patches_that_do_not_follow_each_other_are_refused():
    old, new = torch.zeros(1, 3), torch.ones(1, 3)
    first = {1: ChangedColumns("w", torch.tensor([0]), old, new, (3, 4))}
    with pytest.raises(PatchError, match="not made on the weights after the first one in w"):
        composed(first, first)
    with pytest.raises(PatchError, match="v is not w of the first patch"):
        composed(first, {1: ChangedColumns("v", torch.tensor([0]), new, old, (3, 4))})


class Plain:
    name = "w"

    def __init__(self, weight):
        self.weight = self.matrix = weight
