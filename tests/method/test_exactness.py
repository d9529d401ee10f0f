"""Values, keys, residuals and whole rounds against the slow oracles, in float64, on every architecture."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from tiny import tiny_model, tiny_moments, tiny_tokenizer
from transformers.integrations import sdpa_attention

from nse_plugin.facts import Fact
from nse_plugin.method.keys import FactSpan
from nse_plugin.method.values import GRADIENT, _batches, _rows, optimize_values
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.replay import context_states, prefix_cache, suffix
from nse_plugin.replay.first_use import check_once
from nse_plugin.session import EditSession

pytestmark = pytest.mark.usefixtures("all_in_double")


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("bos", [False, True], ids=["no-bos", "bos"])
def test_values_equal_full_forward_autograd(model, facts, templates, hparams, moments, bos):
    tokenizer = tiny_tokenizer(bos=bos)
    found = EditSession(model, tokenizer, hparams, moments, templates).values(facts)
    for fact, z in zip(facts, found, strict=True):
        expected = oracles.value(model, tokenizer, fact, templates, hparams)
        assert relative(z, expected) <= 1e-10, fact


def test_values_of_facts_that_stop_early_or_hit_the_clamp(llama, tokenizer, facts, templates, hparams):
    """Steps long enough for some facts to fall below the stopping loss, or to be projected, before others."""
    for settings in ({"v_lr": 2.0, "v_num_grad_steps": 25, "clamp_norm_factor": 4.0}, {"clamp_norm_factor": 0.05}):
        changed = dataclasses.replace(hparams, **settings)
        found = EditSession(llama, tokenizer, changed, tiny_moments(llama, [1, 2]), templates).values(facts)
        for fact, z in zip(facts, found, strict=True):
            assert relative(z, oracles.value(llama, tokenizer, fact, templates, changed)) <= 1e-10


def test_values_stop_where_the_target_is_the_first_choice(llama, tokenizer, facts, templates, hparams):
    """In every context: each fact by itself."""
    changed = dataclasses.replace(hparams, v_lr=2.0, v_num_grad_steps=25, clamp_norm_factor=4.0, z_stop="argmax")
    found = EditSession(llama, tokenizer, changed, tiny_moments(llama, [1, 2]), templates).values(facts)
    shorter = 0
    for fact, z in zip(facts, found, strict=True):
        assert relative(z, oracles.value(llama, tokenizer, fact, templates, changed)) <= 1e-10
        longer = oracles.value(llama, tokenizer, fact, templates, dataclasses.replace(changed, z_stop="loss"))
        shorter += not torch.equal(z, longer)
    assert shorter


def test_the_fast_solver_takes_fewer_and_longer_steps_in_one_generated_context(
    llama, tokenizer, facts, templates, hparams
):
    """10 updates become 6, twice as long, by an Adam that forgets sooner; of two generated contexts the first stays."""
    fast = dataclasses.replace(hparams, v_num_grad_steps=11, v_lr=0.1, solver="fast")
    found = EditSession(llama, tokenizer, fast, tiny_moments(llama, [1, 2]), templates).values(facts)
    taken = dataclasses.replace(hparams, v_num_grad_steps=7, v_lr=0.2)
    for fact, z in zip(facts, found, strict=True):
        assert relative(z, oracles.value(llama, tokenizer, fact, templates[:2], taken, betas=(0.6, 0.9))) <= 1e-10


def test_rows_in_packs_of_like_length_give_the_same_values(model, tokenizer, facts, templates, hparams, monkeypatch):
    """Where a pack costs little, there is one for every length."""
    settings = dataclasses.replace(hparams, v_lr=2.0, v_num_grad_steps=9, clamp_norm_factor=4.0)  # some stop early
    expected = [oracles.value(model, tokenizer, fact, templates, settings) for fact in facts]
    for tokens in (0, 5):
        monkeypatch.setattr(prefix_cache, "PASS", tokens)
        found = EditSession(model, tokenizer, settings, tiny_moments(model, [1, 2]), templates).values(facts)
        for z, slow in zip(found, expected, strict=True):
            assert relative(z, slow) <= 1e-10


def test_small_batches_give_the_same_values(llama, tokenizer, facts, templates, hparams):
    moments = tiny_moments(llama, [1, 2])
    together = EditSession(llama, tokenizer, hparams, moments, templates).values(facts)
    alone = dataclasses.replace(hparams, tokens_per_batch=1)
    assert relative(EditSession(llama, tokenizer, alone, moments, templates).values(facts), together) <= 1e-10


def test_value_layer_may_be_the_last_but_one(model, tokenizer, facts, templates, hparams):
    top = dataclasses.replace(hparams, layers=[1, 2])
    fact = Fact("The old town of Italy is {}", "Rome", "Berlin")  # the prompt ends with its subject
    found = EditSession(model, tokenizer, top, tiny_moments(model, [1, 2]), templates).values([fact])
    assert relative(found[0], oracles.value(model, tokenizer, fact, templates, top)) <= 1e-10


@pytest.mark.parametrize("tokens_per_batch", [30, 4096])
def test_keys_and_outputs_equal_full_forwards(model, tokenizer, facts, templates, hparams, tokens_per_batch):
    layout = Layout.of(model)
    prompts = [encode_fact(tokenizer, fact, templates) for fact in facts]
    layers = [0, 2]
    keys, outputs = FactSpan(layout, layers, prompts, tokens_per_batch).run()
    for i, fact in enumerate(facts):
        for layer in layers:
            key, output = oracles.key_and_output(model, tokenizer, fact, templates, layer, layers[-1])
            assert relative(keys[layer][i], key) <= 1e-10
            assert relative(outputs[i], output) <= 1e-10


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


def test_batches_are_bounded_by_what_gradients_take(tokenizer, facts, templates):
    prompts = [encode_fact(tokenizer, fact, templates) for fact in facts]
    weight = [sum(GRADIENT * (len(row.ids) - row.lookup) + row.lookup for row in _rows(fact)) for fact in prompts]
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert sorted(i for batch in _batches(prompts, max(weight), cpu) for i in batch) == list(range(len(facts)))
    for batch in _batches(prompts, 2 * max(weight), cpu):
        assert sum(weight[i] for i in batch) <= 2 * max(weight)
    assert len(_batches(prompts, 1, cpu)) == len(facts)
    assert len(_batches(prompts, sum(weight), cpu)) == 1
    assert len(_batches(prompts, sum(weight) // 4, gpu)) == 1


def test_templates_are_run_once_for_all_batches(llama, tokenizer, facts, templates, hparams, monkeypatch):
    run, own = [], prefix_cache.extended
    for module in (context_states, suffix):
        monkeypatch.setattr(
            module, "extended", lambda layout, past, rows: run.append(list(rows)) or own(layout, past, rows)
        )
    prompts = [encode_fact(tokenizer, fact, templates) for fact in facts]
    layout = Layout.of(llama)
    check_once(layout, [2], [row for fact in prompts for row in fact.rewrites])
    run.clear()
    optimize_values(layout, prompts, dataclasses.replace(hparams, tokens_per_batch=1))
    contexts = {row.ids[: row.context] for fact in prompts for row in fact.rewrites}
    assert len(contexts) > 1
    for context in contexts:
        assert run.count([context]) == 1
    assert len(run) == len(contexts) + len(facts)


def test_heads_that_share_keys_and_values_do_not_copy_them(llama, tokenizer, facts, templates, hparams, monkeypatch):
    monkeypatch.setattr(sdpa_attention, "repeat_kv", None)
    own = sdpa_attention.use_gqa_in_sdpa
    prompts = [encode_fact(tokenizer, fact, templates) for fact in facts]
    optimize_values(Layout.of(llama), prompts, hparams)
    assert sdpa_attention.use_gqa_in_sdpa is own


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


def test_all_four_ablations_are_sequential_memit(llama, tokenizer, facts, templates, hparams):
    """MEMIT, round after round on the present weights: written here as MEMIT is defined, one pass, every neuron."""
    ablated = dataclasses.replace(hparams, rewind=False, p=1.0, max_iterations=1, accumulate=False)
    twin = tiny_model("llama")
    moments = tiny_moments(llama, [1, 2])
    session = EditSession(llama, tokenizer, ablated, moments, templates)
    for chunk in (facts[:2], facts[2:]):
        session.edit(chunk)
        values = [oracles.value(twin, tokenizer, fact, templates, ablated) for fact in chunk]
        for i, layer in enumerate(ablated.layers):
            seen = [oracles.key_and_output(twin, tokenizer, fact, templates, layer, 2) for fact in chunk]
            residuals = [(z - h) / (2 - i) for z, (_, h) in zip(values, seen, strict=True)]
            k = torch.stack([key for key, _ in seen]).T
            matrix = ablated.mom2_update_weight * moments[layer] + k @ k.T
            delta = torch.stack(residuals).T @ torch.linalg.solve(matrix, k).T
            Layout.of(twin).output_matrix(layer).matrix.add_(delta)
    for layer in ablated.layers:
        assert (
            relative(Layout.of(llama).output_matrix(layer).matrix, Layout.of(twin).output_matrix(layer).matrix) <= 1e-10
        )
    assert session.state.knowledge.count == 0
