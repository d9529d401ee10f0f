"""Drift of hidden states: zero without an edit, and equal to a shift made by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import LAYERS, D, tiny_model, tiny_tokenizer

from nse_plugin.evaluation.drift.hidden import METRICS, Plane, hidden_drift, hidden_states

PROMPTS = [
    "The capital of France is",
    "Marie Curie was born in",
    "He",
    "Because of rain and the wind, the river runs through the old town of",
    "Mount Fuji stands in",
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def cloud(rows: int = 40, size: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


def by_transformers(model, tokenizer, prompts) -> list[torch.Tensor]:
    """transformers' own states of every layer at the last token, each prompt alone: [LAYERS + 1] of [n, d]."""
    rows = [model(torch.tensor([tokenizer(p)["input_ids"]]), output_hidden_states=True).hidden_states for p in prompts]
    return [torch.stack([row[layer][0, -1].detach() for row in rows]) for layer in range(LAYERS + 1)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tokens_per_batch", [1, 30, 10_000])
def test_states_are_the_models_own_whatever_the_batch(llama, tokens_per_batch, side):
    tokenizer = tiny_tokenizer(bos=True, padding_side=side)
    expected = by_transformers(llama, tokenizer, PROMPTS)
    for layer in range(LAYERS - 1):  # transformers' last ones are behind the final norm
        found = hidden_states(llama, tokenizer, PROMPTS, layer, tokens_per_batch)
        assert torch.allclose(found, expected[layer + 1], rtol=1e-5, atol=1e-6)
    last = hidden_states(llama, tokenizer, PROMPTS, tokens_per_batch=tokens_per_batch)
    assert torch.equal(last, hidden_states(llama, tokenizer, PROMPTS, LAYERS - 1, tokens_per_batch))
    assert torch.allclose(llama.model.norm(last), expected[-1], rtol=1e-5, atol=1e-6)


def test_every_architecture_has_them(architecture, tokenizer):
    model = tiny_model(architecture)
    first = hidden_states(model, tokenizer, PROMPTS, 0)
    assert first.shape == (len(PROMPTS), D)
    assert first.dtype == torch.float64
    assert torch.allclose(first, by_transformers(model, tokenizer, PROMPTS)[1], rtol=1e-5, atol=1e-6)


def test_space_behind_a_prompt_plays_no_part_and_nothing_stays_on_the_model(llama, tokenizer):
    llama.train()
    found = hidden_states(llama, tokenizer, [f"{prompt} " for prompt in PROMPTS])
    assert torch.equal(found, hidden_states(llama, tokenizer, PROMPTS))
    assert llama.training
    assert not any(layer._forward_hooks for layer in llama.model.layers)


def test_no_edit_is_no_drift(llama, tokenizer):
    before = hidden_states(llama, tokenizer, PROMPTS)
    drift = hidden_drift(before, hidden_states(llama, tokenizer, PROMPTS))
    assert tuple(drift) == METRICS
    assert drift.pop("hidden_cosine") == pytest.approx(1, abs=1e-14)
    assert set(drift.values()) == {0.0}


def test_a_known_edit_is_the_drift_it_makes(tokenizer):
    """GPT-2's last MLP ends in a bias that is added to the residual: all states move by what it is changed by."""
    model = tiny_model("gpt2")
    before = hidden_states(model, tokenizer, PROMPTS)
    shift = torch.arange(D, dtype=torch.float64)
    with torch.no_grad():
        model.transformer.h[-1].mlp.c_proj.bias += shift
    drift = hidden_drift(before, hidden_states(model, tokenizer, PROMPTS))
    assert drift["hidden_mean_shift"] == pytest.approx(float(shift.norm() / before.norm(dim=1).mean()), rel=1e-9)
    assert drift["hidden_covariance_shift"] == pytest.approx(0, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.integers(0, 5))
def test_a_constant_shift(shift, seed):
    before, moved = cloud(seed=seed), torch.tensor(shift, dtype=torch.float64)
    drift = hidden_drift(before, before + moved)
    norm = before.norm(dim=1).mean()
    assert drift["hidden_mean_shift"] == pytest.approx(float(moved.norm() / norm), abs=1e-12)
    assert drift["hidden_covariance_shift"] == pytest.approx(0, abs=1e-12)
    assert drift["hidden_hausdorff"] <= float(moved.norm() / norm) + 1e-12


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 10), st.integers(0, 5))
def test_scaling_all_states(scale, seed):
    before = cloud(seed=seed)
    drift = hidden_drift(before, scale * before)
    norm = before.norm(dim=1).mean()
    assert drift["hidden_covariance_shift"] == pytest.approx(abs(scale**2 - 1), rel=1e-9, abs=1e-12)
    assert drift["hidden_mean_shift"] == pytest.approx(float(abs(scale - 1) * before.mean(dim=0).norm() / norm))
    assert drift["hidden_cosine"] == pytest.approx(1)


def test_by_hand():
    before = torch.tensor([[3.0, 4.0], [0.0, 5.0]])  # both of norm 5
    after = torch.tensor([[-4.0, 3.0], [0.0, 5.0]])  # the first one turned by a right angle
    drift = hidden_drift(before, after)
    assert drift["hidden_cosine"] == pytest.approx(0.5)
    assert drift["hidden_mean_shift"] == pytest.approx(50**0.5 / 2 / 5)  # moved by (-7, -1), half of it in the mean
    # covariances [[9, -3], [-3, 1]] / 4 and [[16, 8], [8, 4]] / 4
    assert drift["hidden_covariance_shift"] == pytest.approx((49 + 121 + 121 + 9) ** 0.5 / 10)
    assert drift["hidden_hausdorff"] == pytest.approx(20**0.5 / 5)  # from (-4, 3) to (0, 5)


@pytest.mark.parametrize(("near", "far"), [(0, 1), (1, 0)])
def test_hausdorff_counts_both_ways(near, far):
    """A point far from all others, before or after: only one of the two directions sees it."""
    clouds = [torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0], [9.0, 1.0]])]
    norm = clouds[near].norm(dim=1).mean()
    assert hidden_drift(clouds[near], clouds[far])["hidden_hausdorff"] == pytest.approx(float(9 / norm))


def test_hausdorff_as_scipys_on_more_rows_than_are_held_at_a_time():
    distance = pytest.importorskip("scipy.spatial.distance", reason="scipy is not installed")
    before, after = cloud(150, seed=1), cloud(150, seed=2)
    both = [distance.directed_hausdorff(a, b)[0] for a, b in ((before, after), (after, before))]
    expected = max(both) / float(before.norm(dim=1).mean())
    assert hidden_drift(before, after)["hidden_hausdorff"] == pytest.approx(expected, rel=1e-12)


def test_a_model_that_broke_has_no_finite_drift():
    before = cloud()
    drift = hidden_drift(before, before * float("nan"))
    assert not any(torch.tensor(list(drift.values())).isfinite())


def test_the_plane_is_the_two_largest_axes():
    axes = torch.linalg.qr(cloud(6, 6, seed=3)).Q
    draws = cloud(50, seed=4) - 1
    lengths = torch.tensor([9.0, 5.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    states = (torch.linalg.qr(draws - draws.mean(dim=0)).Q * lengths) @ axes.T + 7  # its SVD, by construction
    plane = Plane.of(states)
    assert torch.allclose((plane.directions.T @ axes[:, :2]).abs(), torch.eye(2, dtype=torch.float64), atol=1e-10)
    points = plane.points(states)
    assert points.shape == (50, 2)
    assert torch.allclose(points.norm(dim=0), lengths[:2])
    assert torch.allclose(points @ plane.directions.T + plane.center, states)  # nothing lies off the plane
    moved = plane.points(states + 2 * axes[:, 0] + 3 * axes[:, 5]) - points
    assert torch.allclose(moved.norm(dim=1), torch.full((50,), 2.0, dtype=torch.float64))  # off the plane: unseen


def test_the_plane_does_not_depend_on_the_decompositions_signs():
    states = cloud()
    for directions in (Plane.of(states).directions, Plane.of(-states).directions):
        assert (directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)) > 0).all()
    assert torch.allclose(Plane.of(states).directions, Plane.of(-states).directions)


def test_a_plane_in_a_file(tmp_path):
    plane = Plane.of(cloud())
    save_file(vars(plane), tmp_path / "plane.safetensors")
    read = Plane(**load_file(tmp_path / "plane.safetensors"))
    assert torch.equal(read.points(cloud(seed=1)), plane.points(cloud(seed=1)))


@pytest.mark.parametrize(
    ("prompts", "layer", "message"),
    [
        ([], None, "prompts is empty"),
        (["France", " "], None, "prompt ' ' has no tokens"),
        (["town " * 100], None, "prompt 'town town.* tokens long, and the model has 64 positions"),
        (PROMPTS, LAYERS, f"layer = {LAYERS} is out of range: this model has layers 0 to {LAYERS - 1}"),
        (PROMPTS, -1, "layer = -1 is out of range"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_error(llama, tokenizer, prompts, layer, message):
    with pytest.raises(ValueError, match=message):
        hidden_states(llama, tokenizer, prompts, layer)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (cloud(4), cloud(5), r"after has shape \(5, 6\) and before \(4, 6\)"),
        (cloud(1), cloud(1), "before cannot be compared with"),
        (torch.ones(3, 6), torch.zeros(3, 6), "before cannot be compared with"),
        (cloud(4) * float("nan"), cloud(4), "before cannot be compared with"),
    ],
)
def test_clouds_that_cannot_be_compared_are_one_clear_error(before, after, message):
    with pytest.raises(ValueError, match=message):
        hidden_drift(before, after)
