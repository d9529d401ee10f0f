"""Norms and ranks of weight changes that were made by hand."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tiny import D, F, tiny_model

from nse_plugin.evaluation.drift.weights import COLUMNS, weight_change
from nse_plugin.models.layout import Layout


def edited_pair(architecture="llama", dtype=torch.float64):
    """A model, and a copy that stays as it is."""
    model = tiny_model(architecture, dtype)
    return model, copy.deepcopy(model)


def of_values(rows: int, columns: int, values: list[float], seed: int = 0) -> torch.Tensor:
    """A matrix [rows, columns] of these singular values."""
    torch.manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, len(values), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), dtype=torch.float64)).Q
    return left @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ right.T


def test_no_edit_is_an_empty_table():
    model, original = edited_pair()
    frame = weight_change(model, original.named_parameters())
    assert frame.empty
    assert tuple(frame.columns) == COLUMNS


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # Linear and Conv1D
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_change_of_rank_two_and_known_norm(architecture, dtype):
    model, original = edited_pair(architecture, dtype)
    output = Layout.of(model).output_matrix(2)
    norm = float(output.matrix.double().norm())
    output.add_columns(torch.arange(F), of_values(D, F, [0.4, 0.3]))
    (row,) = weight_change(model, original.named_parameters()).to_dict("records")
    assert (row["name"], row["layer"], row["rank"]) == (output.name, 2, 2)
    assert row["relative_norm"] == pytest.approx(0.5 / norm, rel=1e-5)
    assert row["stable_rank"] == pytest.approx(0.25 / 0.16, rel=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(0, 100), st.floats(0.1, 10))
def test_any_singular_values(values, seed, scale):
    model, original = edited_pair()
    change = of_values(D, F, [scale * value for value in values], seed)
    Layout.of(model).output_matrix(1).add_columns(torch.arange(F), change)
    (row,) = weight_change(model, original.named_parameters()).to_dict("records")
    assert row["rank"] == len(values) == np.linalg.matrix_rank(change.numpy())
    squares = sum(value**2 for value in values)
    norm = float(Layout.of(original).output_matrix(1).matrix.norm())
    assert row["relative_norm"] == pytest.approx(scale * squares**0.5 / norm)
    assert row["stable_rank"] == pytest.approx(squares / max(values) ** 2)


def test_a_few_neurons_are_no_more_than_their_number():
    model, original = edited_pair()
    neurons = torch.tensor([3, 17, 30])
    change = of_values(D, 3, [1.0, 1.0, 1.0])
    Layout.of(model).output_matrix(3).add_columns(neurons, change)
    (row,) = weight_change(model, original.named_parameters()).to_dict("records")
    assert row["rank"] == 3
    assert row["stable_rank"] == pytest.approx(3)


def test_doubled_weights_have_relative_norm_one_and_their_own_rank():
    model, original = edited_pair()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight *= 2
    (row,) = weight_change(model, original.named_parameters()).to_dict("records")
    assert (row["layer"], row["rank"]) == (1, D)
    assert row["relative_norm"] == pytest.approx(1)


def test_every_changed_weight_has_a_row_those_outside_the_layers_no_layer():
    model, original = edited_pair()
    with torch.no_grad():
        model.model.norm.weight += 1  # a vector
        model.model.embed_tokens.weight[5] += 1
        model.model.layers[3].mlp.up_proj.weight[0, 0] += 1
    frame = weight_change(model, original.named_parameters()).set_index("name")
    assert set(frame.index) == {"model.norm.weight", "model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight"}
    assert frame["layer"].isna().sum() == 2
    assert frame.loc["model.layers.3.mlp.up_proj.weight", "layer"] == 3
    assert list(frame["rank"]) == [1, 1, 1]
    assert frame["stable_rank"].to_numpy() == pytest.approx(1)


def test_originals_come_from_a_file_one_at_a_time(tmp_path):
    model, original = edited_pair("gpt2")  # its head is its embedding
    original.save_pretrained(tmp_path)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight[7] += 1
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        frame = weight_change(model, ((name, file.get_tensor(name)) for name in file.keys()))  # noqa: SIM118
    assert list(frame["name"]) == ["transformer.h.0.mlp.c_proj.weight"]
    assert list(frame["rank"]) == [1]


def test_nothing_is_written_and_only_what_has_an_original_is_looked_at(weights_of, same_weights):
    model, original = edited_pair()
    kept = weights_of(original)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight += 0.1
    before = weights_of(model)
    name = "model.layers.1.mlp.down_proj.weight"
    frame = weight_change(model, [(name, original.get_parameter(name))])
    assert list(frame["name"]) == [name]
    assert same_weights(before, weights_of(model))
    assert same_weights(kept, weights_of(original))


def test_a_change_that_is_not_finite_has_no_numbers():
    model, original = edited_pair()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    (row,) = weight_change(model, original.named_parameters()).to_dict("records")
    assert row["layer"] == 0
    assert all(pd.isna(row[name]) for name in ("relative_norm", "rank", "stable_rank"))


def test_the_weights_of_another_model_are_refused():
    model = tiny_model("llama")
    with pytest.raises(
        ValueError, match=r"originals has 'lm\.weight' of shape \(2,\), .* has no such weight: give the"
    ):
        weight_change(model, [("lm.weight", torch.zeros(2))])
    name = "model.norm.weight"
    with pytest.raises(ValueError, match=rf"originals has '{name}' of shape \(3,\), .* one of shape \({D},\)"):
        weight_change(model, [(name, torch.zeros(3))])
