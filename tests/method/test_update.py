"""The closed-form update against the plain normal equations."""

from __future__ import annotations

import logging

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import relative

from nse_plugin.method.neurons import select_neurons
from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.method.subspace import Neurons
from nse_plugin.method.update import LayerSystem, UpdateError, solve_update


def problem(n, d, f, m, seed=0, dtype=torch.float64):
    """keys [n, f], residuals [n, d], C0 [f, f], protected keys [m, f], all random."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sample = randn(4 * f, f)
    return (
        randn(n, f).to(dtype),
        randn(n, d).to(dtype),
        (sample.T @ sample / len(sample)).to(dtype),
        randn(m, f).to(dtype),
    )


def update(keys, residuals, system, neurons):
    """The change of the columns `neurons`."""
    return solve_update(keys, residuals, system, Neurons(neurons))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 6), d=st.integers(1, 5), f=st.integers(1, 12), m=st.integers(0, 8), p=st.floats(0.05, 1.0),
    weight=st.floats(1e-2, 1e4), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_the_normal_equations_solution(n, d, f, m, p, weight, seed):
    keys, residuals, c0, protected = problem(n, d, f, m, seed)
    neurons = select_neurons(keys, p)
    delta = update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), weight), neurons)
    expected = oracles.update(list(keys), list(residuals), c0, list(protected), weight, neurons.tolist())
    assert delta.dtype == torch.float64
    assert delta.shape == (d, len(neurons))
    assert relative(delta, expected) <= 1e-9


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), m=st.integers(0, 5), weight=st.floats(1e-1, 1e3), seed=st.integers(0, 10**6))
def test_it_is_the_best_compromise(n, m, weight, seed):
    """Delta minimises |Delta K - R|^2 + |Delta Kp|^2 + weight * tr(Delta C0 Delta^T): the gradient is zero there."""
    keys, residuals, c0, protected = problem(n, 3, 7, m, seed)
    neurons = torch.tensor([0, 2, 3, 6])
    delta = update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), weight), neurons).requires_grad_()
    k, kp, c = keys[:, neurons].T, protected[:, neurons].T, c0[neurons][:, neurons]
    loss = (
        (delta @ k - residuals.T).square().sum() + (delta @ kp).square().sum() + weight * (delta @ c @ delta.T).trace()
    )
    [gradient] = torch.autograd.grad(loss, delta)
    assert gradient.norm() <= 1e-9 * (1 + weight) * residuals.norm() * keys.norm()


def test_every_neuron_is_the_full_solve():
    keys, residuals, c0, protected = problem(3, 4, 9, 5)
    everyone = select_neurons(keys, 1.0)
    matrix = 2.0 * c0 + protected.T @ protected + keys.T @ keys
    full = residuals.T @ torch.linalg.solve(matrix, keys.T).T
    assert relative(update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 2.0), everyone), full) <= 1e-12


def test_one_factor_serves_every_pass_with_the_same_neurons(monkeypatch):
    """The keys of a pass differ from those of the one before: they are no part of what is factored."""
    factored = []
    own = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrix: factored.append(matrix) or own(matrix))
    _, residuals, c0, protected = problem(3, 4, 9, 5)
    system = LayerSystem(c0, LayerKeys.of(protected), 2.0, reuse_factor=True)
    for number, neurons in enumerate((torch.arange(9), torch.arange(9), torch.arange(8), torch.arange(8))):
        keys = problem(3, 4, 9, 5, seed=number)[0]
        expected = oracles.update(list(keys), list(residuals), c0, list(protected), 2.0, neurons.tolist())
        assert relative(update(keys, residuals, system, neurons), expected) <= 1e-12
    assert [len(matrix) for matrix in factored] == [9, 8]


@pytest.mark.parametrize("variance", [1e-8, 1e-16, 1e-30])
def test_a_neuron_that_the_text_never_woke(variance):
    """K^T A^-1 K is huge there, and Woodbury's identity worth nothing: the result must not be."""
    keys, residuals, c0, protected = problem(3, 4, 20, 0)
    c0[0], c0[:, 0], c0[0, 0] = 0, 0, variance
    delta = update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 100.0), torch.arange(20))
    matrix = 100.0 * c0 + keys.T @ keys
    assert relative(delta @ matrix, residuals.T @ keys) <= 1e-9


def test_nothing_protected_is_memits_update():
    keys, residuals, c0, _ = problem(3, 4, 9, 0)
    neurons = torch.arange(9)
    empty = keys.new_zeros(0, 9)
    memit = torch.linalg.solve(2.0 * c0 + keys.T @ keys, keys.T @ residuals).T
    assert relative(update(keys, residuals, LayerSystem(c0, LayerKeys.of(empty), 2.0), neurons), memit) <= 1e-12


def test_protected_keys_keep_their_answers():
    """The more a protected key weighs, the less Delta moves what it says; the new key still gets its residual."""
    keys, residuals, c0, protected = problem(1, 4, 9, 2)
    neurons = torch.arange(9)
    free = update(keys, residuals, LayerSystem(1e-6 * c0, LayerKeys.of(protected[:0]), 1.0), neurons)
    kept = update(keys, residuals, LayerSystem(1e-6 * c0, LayerKeys.of(1e3 * protected), 1.0), neurons)
    assert (kept @ protected.T).norm() < 1e-3 * (free @ protected.T).norm()
    assert torch.allclose(kept @ keys.T, residuals.T, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_input_is_solved_in_float64(dtype):
    keys, residuals, c0, protected = problem(3, 4, 9, 5, dtype=dtype)
    c0 = c0.float()
    neurons = torch.arange(9)
    system = LayerSystem(c0.double(), LayerKeys.of(protected.double()), 2.0)
    exact = update(keys.double(), residuals.double(), system, neurons)
    assert torch.equal(update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 2.0), neurons), exact)


def nearly_indefinite(f=60, tokens=20):
    """C0 in float32 from fewer tokens than neurons: its smallest eigenvalues are rounding, of either sign."""
    sample = torch.randn(tokens, f, generator=torch.Generator().manual_seed(0))
    sample[:, 0] *= 1e3
    return (sample.T @ sample / tokens).float()


def test_a_c0_that_is_not_quite_positive_definite_is_solved_all_the_same(caplog):
    c0 = nearly_indefinite()
    assert torch.linalg.eigvalsh(c0.double()).min() < 0
    keys, residuals, _, protected = problem(2, 4, 60, 3)
    with caplog.at_level(logging.WARNING):
        delta = update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 1e4), torch.arange(60))
    assert "not positive definite" in caplog.text
    matrix = 1e4 * c0.double() + protected.T @ protected + keys.T @ keys
    assert relative(delta @ matrix, residuals.T @ keys) <= 1e-6


def test_a_good_c0_warns_of_nothing(caplog):
    keys, residuals, c0, protected = problem(2, 4, 9, 3)
    update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 1.0), torch.arange(9))
    assert caplog.text == ""


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_no_finite_solution(bad):
    keys, residuals, c0, protected = problem(1, 4, 6, 0)
    keys[:] = torch.tensor([1.0, 0, 0, 0, 0, 0])
    with pytest.raises(UpdateError, match=r"not finite.*second moments.*6 neurons.*mom2_update_weight"):
        update(keys, residuals, LayerSystem(torch.full_like(c0, bad), LayerKeys.of(protected), 1.0), torch.arange(6))


def test_a_factor_that_is_too_large_is_not_kept(monkeypatch):
    """Of 9 neurons it takes 648 bytes."""
    for most, kept in ((648, True), (647, False)):
        monkeypatch.setattr("nse_plugin.method.update.MAX_FACTOR_BYTES", most)
        keys, residuals, c0, protected = problem(3, 4, 9, 5)
        system = LayerSystem(c0, LayerKeys.of(protected), 2.0, reuse_factor=True)
        update(keys, residuals, system, torch.arange(9))
        assert (system._factored is not None) == kept
