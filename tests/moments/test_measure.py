"""Second moments measured in one pass, against one pass per layer."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from moment_files import DOCUMENTS, brute_force
from oracles import relative
from tiny import F, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin.models.layout import Layout
from nse_plugin.moments.corpora import token_batches
from nse_plugin.moments.measure import MomentsError, MomentSums, measure_moments
from nse_plugin.moments.provider import second_moments


def brute_force_flat(model, tokenizer, texts, layer):
    """The same where W_out is given [B x S, f]."""
    seen = []
    handle = (
        Layout.of(model).output_matrix(layer).module.register_forward_pre_hook(lambda _, args: seen.extend(args[0]))
    )
    for one in texts:
        with torch.no_grad():
            model(input_ids=tokenizer(one, return_tensors="pt")["input_ids"])
    handle.remove()
    return sum(torch.outer(k, k) for k in seen) / len(seen)


def test_one_pass_for_all_layers_equals_a_pass_for_each(model, tokenizer, settings):
    layers = [0, 2, 3]
    layout = Layout.of(model)
    found = measure_moments(layout, layers, token_batches(layout, tokenizer, settings, 0))
    for layer in layers:
        expected = brute_force(model, tokenizer, DOCUMENTS, layer)
        assert relative(found.sums[layer] / found.tokens, expected) <= 1e-8


def test_each_batch_runs_once_and_stops_behind_the_last_edited_layer(llama, tokenizer, settings):
    runs = [0] * 4
    for i, layer in enumerate(llama.model.layers):
        layer.register_forward_hook(lambda *_, i=i: runs.__setitem__(i, runs[i] + 1))
    layout = Layout.of(llama)
    batches = list(token_batches(layout, tokenizer, settings, 0))
    measure_moments(layout, [0, 1], batches)
    assert runs == [len(batches), 0, 0, 0]  # layer 1 ends at its W_out


def test_half_precision_is_summed_in_float32(tokenizer, settings):
    half = tiny_model("llama", torch.bfloat16)
    layout = Layout.of(half)
    found = measure_moments(layout, [1], token_batches(layout, tokenizer, settings, 0))
    assert found.sums[1].dtype == torch.float32
    assert relative(found.sums[1] / found.tokens, brute_force(half, tokenizer, DOCUMENTS, 1)) <= 1e-2


def test_hooks_and_flags_are_as_before_also_when_a_batch_fails(llama):
    def broken():
        yield [[1, 2, 3]]
        raise OSError

    llama.train()
    with pytest.raises(OSError):  # noqa: PT011
        measure_moments(Layout.of(llama), [1, 2], broken())
    assert llama.training
    assert all(parameter.requires_grad for parameter in llama.parameters())
    assert not any(child._forward_pre_hooks for child in llama.modules())


def test_a_text_without_tokens(llama, tokenizer, settings, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n\n")
    chosen = dataclasses.replace(settings, mom2_dataset=empty)
    with pytest.raises(MomentsError, match="no tokens"):
        second_moments(Layout.of(llama), tokenizer, chosen)
    assert not list((tmp_path / "stats").rglob("*.npz"))


def test_a_model_that_flattens_its_tokens_before_w_out(tokenizer, settings):
    """OPT's layers do."""
    config = AutoConfig.for_model(
        "opt", vocab_size=320, hidden_size=16, word_embed_proj_dim=16, ffn_dim=F, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).double().eval()
    found = second_moments(Layout.of(model), tokenizer, settings)
    assert relative(found[2], brute_force_flat(model, tokenizer, DOCUMENTS, 2)) <= 1e-6


def test_sums_go_on_from_given_ones(llama, tokenizer, settings):
    layout = Layout.of(llama)
    batches = list(token_batches(layout, tokenizer, settings, 0))
    whole = measure_moments(layout, [1], batches)
    half = measure_moments(layout, [1], batches[:2])
    both = measure_moments(layout, [1], batches[2:], MomentSums(half.sums, half.tokens, half.batches))
    assert torch.equal(both.sums[1], whole.sums[1])
    assert (both.tokens, both.batches) == (whole.tokens, len(batches))
