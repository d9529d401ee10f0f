"""Updates restricted to a subspace, against the formulas of the papers that they come from."""

from __future__ import annotations

import gc

import pytest
import torch

from nse_plugin.hparams import HyperParamsError
from nse_plugin.method import subspace
from nse_plugin.method.protected_keys import LayerKeys
from nse_plugin.method.subspace import _NULL_SPACES, Neurons, null_space
from nse_plugin.method.update import LayerSystem, solve_update
from nse_plugin.support.files import cache_home


def problem(n=3, d=4, f=12, m=5, rank=7):
    """keys [n, f], residuals [n, d], protected keys [m, f], and a C0 [f, f] of that rank."""
    generator = torch.Generator().manual_seed(0)
    keys, residuals, protected, sample = (
        torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        for rows, columns in ((n, f), (n, d), (m, f), (rank, f))
    )
    return keys, residuals, protected, sample.T @ sample / rank


def update(keys, residuals, system, subspace):
    """Delta [d, f]."""
    change, columns = solve_update(keys, residuals, system, subspace), subspace.columns
    delta = torch.zeros(residuals.shape[1], keys.shape[1], dtype=torch.float64)
    delta[:, columns] = change
    return delta


def test_alphaedit_is_an_update_in_the_null_space():
    """Its own formula is R K^T P (P (Kp Kp^T + K K^T) + c I)^-1, which is not symmetric (AlphaEdit, eq. 14)."""
    keys, residuals, protected, c0 = problem()
    space = null_space(c0, 1e-6, torch.device("cpu"))
    assert space.size == 12 - 7
    found = update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 0.0, ridge=10.0), space)
    p = space.vectors @ space.vectors.T
    left = p @ (protected.T @ protected + keys.T @ keys) + 10.0 * torch.eye(12, dtype=torch.float64)
    theirs = torch.linalg.solve(left, p @ keys.T @ residuals).T
    assert (found - theirs).norm() <= 1e-12 * theirs.norm()


def test_what_the_text_says_is_left_alone():
    keys, residuals, protected, c0 = problem()
    delta = update(
        keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 0.0, 10.0), null_space(c0, 1e-6, c0.device)
    )
    assert (delta @ c0).norm() <= 1e-12 * delta.norm()
    assert (delta @ keys.T).norm() > 0.1 * residuals.norm()


@pytest.mark.parametrize("weight", [0.0, 3.0])
@pytest.mark.parametrize("n", [3, 40])
@pytest.mark.parametrize("m", [5, 30])  # fewer and more protected keys than neurons
def test_a_basis_of_everything_is_the_full_solve(weight, n, m):
    keys, residuals, protected, c0 = problem(n=n, m=m)
    everything = null_space(c0, 1e9, c0.device)
    system = LayerSystem(c0, LayerKeys.of(protected), weight, ridge=0.5)
    matrix = weight * c0 + protected.T @ protected + keys.T @ keys + 0.5 * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, keys.T @ residuals).T
    for space in (everything, Neurons(torch.arange(12))):
        assert (update(keys, residuals, system, space) - expected).norm() <= 1e-11 * expected.norm()


def test_a_ridge_among_chosen_neurons():
    keys, residuals, protected, c0 = problem()
    chosen = torch.tensor([1, 4, 5, 9])
    k, kp = keys[:, chosen], protected[:, chosen]
    matrix = 2 * c0[chosen][:, chosen] + kp.T @ kp + k.T @ k + 0.5 * torch.eye(4, dtype=torch.float64)
    expected = torch.linalg.solve(matrix, k.T @ residuals).T
    found = solve_update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected), 2.0, 0.5), Neurons(chosen))
    assert (found - expected).norm() <= 1e-12 * expected.norm()


def test_a_factor_is_not_taken_for_another_subspace_s():
    _, _, protected, c0 = problem()
    system = LayerSystem(c0, LayerKeys.of(protected), 2.0, 0.5, reuse_factor=True)
    first, second = null_space(c0, 1e-6, c0.device), Neurons(torch.arange(3))
    assert system.factor(first) is system.factor(first)
    assert system.factor(second) is not system.factor(first)


def test_a_null_space_is_found_once_and_let_go_with_its_c0():
    _, _, _, c0 = problem()
    count = len(_NULL_SPACES)
    first = null_space(c0, 1e-6, c0.device)
    assert null_space(c0, 1e-6, c0.device) is first
    assert null_space(c0, 1e9, c0.device).size == 12
    del c0
    gc.collect()
    assert len(_NULL_SPACES) == count


def test_no_room_to_edit():
    _, _, _, c0 = problem(rank=40)
    with pytest.raises(ValueError, match=r"nullspace_threshold = 1e-09 leaves no room.*smallest eigenvalue.*larger"):
        null_space(c0, 1e-9, c0.device)


@pytest.mark.parametrize(("threshold", "ridge"), [(1e9, 0.5), (1e-6, 10.0), (1e9, 1e-4)])
@pytest.mark.parametrize("m", [0, 3, 9])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_few_keys_are_solved_without_the_whole_system(threshold, ridge, m, weight):
    """With eigenvectors of C0 the rest of the system is diagonal; the dense factor has the same solution."""
    keys, residuals, protected, c0 = problem(n=3, f=40, m=m, rank=17)
    space = null_space(c0, threshold, c0.device)
    system = LayerSystem(c0, LayerKeys.of(protected), weight, ridge)
    found = update(keys, residuals, system, space)
    k, kp = space.coordinates(keys), space.coordinates(protected)
    matrix = space.vectors.T @ (weight * c0) @ space.vectors + kp.T @ kp + k.T @ k + ridge * torch.eye(space.size)
    expected = residuals.T @ torch.linalg.solve(matrix, k.T).T @ space.vectors.T
    assert (found - expected).norm() <= (1e-11 if ridge > 0.1 else 1e-9) * expected.norm()


def test_few_keys_need_no_factor(monkeypatch):
    keys, residuals, protected, c0 = problem(f=40, rank=17)
    system = LayerSystem(c0, LayerKeys.of(protected), 0.0, 10.0)
    monkeypatch.setattr(LayerSystem, "factor", None)
    monkeypatch.setattr(LayerSystem, "matrix", None)
    assert update(keys, residuals, system, null_space(c0, 1e-6, c0.device)).norm() > 0
    with pytest.raises(TypeError):  # the keys are no longer few
        update(keys, residuals, LayerSystem(c0, LayerKeys.of(protected.repeat(4, 1)), 0.0, 10.0),
               null_space(c0, 1e-6, c0.device))  # fmt: skip


@pytest.fixture
def eigh(monkeypatch):
    """How often eigenvectors were computed, as a list of sizes; files are worth it for every size."""
    sizes = []

    def counting(matrix):
        sizes.append(len(matrix))
        return compute(matrix)

    compute = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", counting)
    monkeypatch.setattr(subspace, "_WORTH_A_FILE", 1)
    return sizes


def test_a_new_process_reads_the_eigenvectors(eigh):
    _, _, _, c0 = problem()
    first = null_space(c0, 1e-6, c0.device)
    again = null_space(c0.clone(), 1e-6, c0.device)  # what another process has read from the same file
    assert eigh == [12]
    assert torch.equal(again.vectors, first.vectors)
    assert torch.equal(again.values, first.values)


def test_another_c0_or_threshold_has_eigenvectors_of_its_own(eigh):
    _, _, _, c0 = problem()
    null_space(c0, 1e-6, c0.device)
    assert null_space(c0.clone(), 1e9, c0.device).size == 12
    assert null_space(2 * c0, 1e-6, c0.device).size == 5
    assert null_space(c0.float(), 1e-3, c0.device).vectors.dtype == torch.float64
    assert eigh == [12] * 4


def test_a_damaged_file_of_eigenvectors_is_computed_again(eigh):
    _, _, _, c0 = problem()
    first = null_space(c0, 1e-6, c0.device)
    (file,) = (cache_home() / "null_spaces").glob("??/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert torch.equal(null_space(c0.clone(), 1e-6, c0.device).vectors, first.vectors)
    assert eigh == [12] * 2


def test_a_threshold_below_every_eigenvalue_is_refused_and_nothing_kept(eigh):
    _, _, _, c0 = problem(rank=40)
    with pytest.raises(HyperParamsError, match="nullspace_threshold = 1e-06"):
        null_space(c0, 1e-6, c0.device)
    assert not (cache_home() / "null_spaces").exists()
