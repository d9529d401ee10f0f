"""Rounds over several layers and passes, against the slow oracle."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from oracles import relative
from tiny import tiny_model, tiny_moments

from nse_plugin.models.layout import Layout
from nse_plugin.session import EditSession

pytestmark = pytest.mark.usefixtures("all_in_double")


@pytest.mark.parametrize(
    "settings",
    [{"p": 1.0, "layers": [0, 2]}, {"layers": [2]}, {"alpha": 1e-9}],
    ids=["gap", "one layer", "all again"],
)
@pytest.mark.parametrize("contexts", [1, None], ids=["bare", "contexts"])
def test_other_layers_and_contexts_equal_the_oracle(llama, tokenizer, facts, templates, hparams, settings, contexts):
    """Gaps, one layer, no generated contexts, all facts in every pass."""
    changed, some = dataclasses.replace(hparams, **settings), templates[:contexts]
    twin, moments = tiny_model("llama"), tiny_moments(llama, changed.layers)
    session = EditSession(llama, tokenizer, changed, moments, some)
    values = session.values(facts)
    session.edit_with_values(facts, values)
    keys, _ = oracles.edit_round(twin, tokenizer, facts, some, values, moments, {}, changed)
    for layer in changed.layers:
        found, expected = (Layout.of(model).output_matrix(layer).matrix for model in (llama, twin))
        assert relative(found, expected) <= 1e-9
        protected = session.state.knowledge.of(layer, found[:0]).keys
        assert relative(protected, torch.stack(keys[layer])) <= 1e-7


def test_a_round_factors_every_system_once(llama, tokenizer, facts, templates, hparams, monkeypatch):
    factored = []
    own = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrix: factored.append(matrix) or own(matrix))
    twice = dataclasses.replace(hparams, p=1.0, alpha=1e-9, max_iterations=2)
    report = EditSession(llama, tokenizer, twice, tiny_moments(llama, [1, 2]), templates).edit(facts)
    assert report.frame["passes"].tolist() == [2] * len(facts)
    assert len(factored) == 2  # two layers, two passes


def test_rounds_equal_the_oracle(architecture, tokenizer, facts, templates, hparams):
    """Two rounds with selection, iterations and accumulation: the same weights as the slow way."""
    model, twin = tiny_model(architecture), tiny_model(architecture)
    moments = tiny_moments(model, [1, 2])
    session = EditSession(model, tokenizer, hparams, moments, templates)
    protected: dict[int, list] = {}
    for chunk in (facts[:2], facts[2:]):
        values = session.values(chunk)
        report = session.edit_with_values(chunk, values)
        keys, norms = oracles.edit_round(twin, tokenizer, chunk, templates, values, moments, protected, hparams)
        protected = {layer: protected.get(layer, []) + keys[layer] for layer in keys}
        assert torch.allclose(torch.tensor(report.frame["residual"].to_numpy()), norms, rtol=1e-6, atol=1e-9)
    original = tiny_model(architecture)
    for layer in hparams.layers:
        change = Layout.of(model).output_matrix(layer).matrix - Layout.of(original).output_matrix(layer).matrix
        expected = Layout.of(twin).output_matrix(layer).matrix - Layout.of(original).output_matrix(layer).matrix
        assert expected.norm() > 0
        assert relative(change, expected) <= 1e-7
    assert session.state.knowledge.count == len(facts)


@pytest.mark.parametrize(
    "settings",
    [{"p": 1.0}, {"subspace": "null_space", "nullspace_threshold": 0.5, "ridge": 3.0, "mom2_update_weight": 0.0}],
    ids=["all neurons", "null space"],
)
def test_rounds_one_after_another_equal_one_round_of_everything(tokenizer, facts, hparams, settings):
    """One layer, values given, bare prompts: every earlier key is in the system (arXiv 2605.26670)."""
    one_layer = dataclasses.replace(hparams, layers=[2], max_iterations=1, **settings)
    matrices = []
    for rounds in ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[2, 0], [3, 1]]):
        model = tiny_model("llama")
        moments = tiny_moments(model, [2])
        session = EditSession(model, tokenizer, one_layer, moments, ["{}"])
        values = session.values(facts)
        before = Layout.of(model).output_matrix(2).matrix.clone()
        for chosen in rounds:
            session.edit_with_values([facts[i] for i in chosen], values[chosen])
        matrices.append(Layout.of(model).output_matrix(2).matrix - before)
    assert matrices[0].norm() > 0
    for other in matrices[1:]:
        assert relative(other, matrices[0]) <= 1e-8
