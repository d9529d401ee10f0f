"""Values, against autograd through the full model."""

from __future__ import annotations

import dataclasses

import oracles
import pytest
import torch
from oracles import relative
from tiny import tiny_moments, tiny_tokenizer
from transformers.integrations import sdpa_attention

from nse_plugin.facts import Fact
from nse_plugin.method.values import GRADIENT, _batches, _rows, optimize_values
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import encode_fact
from nse_plugin.replay import context_states, prefix_cache, suffix
from nse_plugin.replay.first_use import check_once
from nse_plugin.session import EditSession

pytestmark = pytest.mark.usefixtures("all_in_double")


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


def test_batches_are_bounded_by_what_gradients_take(tokenizer, facts, templates):
    prompts = [encode_fact(tokenizer, fact, templates) for fact in facts]
    weight = [sum(GRADIENT * (len(row.ids) - row.lookup) + row.lookup for row in _rows(fact)) for fact in prompts]
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert sorted(i for batch in _batches(prompts, max(weight), cpu) for i in batch) == list(range(len(facts)))
    for batch in _batches(prompts, 2 * max(weight), cpu):
        assert sum(weight[i] for i in batch) <= 2 * max(weight)
    assert len(_batches(prompts, 1, cpu)) == len(facts)
    assert len(_batches(prompts, sum(weight), cpu)) == 1
    assert len(_batches(prompts, sum(weight), cpu, whole_rows=True)) > 1  # prefixes have gradients too
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
