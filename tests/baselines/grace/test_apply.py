"""Answers of a model that GRACE has wrapped."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model

from nse_plugin.baselines.grace import (
    apply_grace_to_model,
    codebook_of,
    resume,
    unwrap,
)
from nse_plugin.facts import FactError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.prompts import split_target

REQUEST = {"prompt": "The capital of France is", "subject": "France", "target_new": "town"}
OTHER = {"prompt": "Marie Curie was born in", "subject": "Marie Curie", "target_new": "Paris"}
MATRIX = {"llama": "model.layers[2].mlp.down_proj.weight", "gpt2": "transformer.h[2].mlp.c_proj.weight"}


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=torch.as_tensor(ids), **inputs).logits


def says(model, tokenizer, request):
    """Whether the target is the model's first choice at every token, all in one row."""
    prompt, target = split_target(tokenizer, request["prompt"], request["target_new"])
    return logits(model, [prompt + target])[0, len(prompt) - 1 : -1].argmax(-1).tolist() == target


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("val_init", ["cold", "warm"])
def test_an_edited_model_says_the_target(architecture, val_init, tokenizer, hparams, weights_of, same_weights):
    model = tiny_model(architecture)
    hparams = replace(hparams, inner_params=[MATRIX[architecture]], val_init=val_init)
    weights, names = weights_of(model), set(model.state_dict())
    assert not says(model, tokenizer, REQUEST)
    edited, originals = apply_grace_to_model(model, tokenizer, [REQUEST, OTHER], hparams, return_orig_weights=True)
    assert edited is model
    assert originals == {}
    assert says(model, tokenizer, REQUEST)
    assert says(model, tokenizer, OTHER)
    assert len(codebook_of(model).labels) == 2
    assert same_weights(weights, weights_of(model))
    assert set(model.state_dict()) == names


def test_a_model_in_half_precision_is_edited_too(tokenizer, hparams):
    model = tiny_model("llama", dtype=torch.bfloat16)
    apply_grace_to_model(model, tokenizer, [REQUEST], hparams)
    assert says(model, tokenizer, REQUEST)
    assert codebook_of(model).values.dtype == torch.float32


def test_other_inputs_are_answered_to_the_bit_as_before(llama, tokenizer, hparams):
    others = tokenizer(["Berlin is the capital of", "She speaks French and"])["input_ids"]
    before = [logits(llama, [ids]) for ids in others]
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    assert all(torch.equal(logits(llama, [ids]), then) for ids, then in zip(others, before, strict=True))


def test_the_unedited_part_of_a_row_is_as_before(llama, tokenizer, hparams):
    prompt, target = split_target(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    before = logits(llama, [prompt + target])
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    after = logits(llama, [prompt + target])
    assert torch.equal(after[:, : len(prompt) - 1], before[:, : len(prompt) - 1])
    assert not torch.equal(after[:, len(prompt) - 1], before[:, len(prompt) - 1])


def test_padding_and_batch_do_not_matter(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    prompt, target = split_target(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    row, short = prompt + target, prompt[:3]
    alone = logits(llama, [row])[0]
    pad = [0] * (len(row) - 3)
    mask = torch.tensor([[1] * len(row), [1] * 3 + [0] * len(pad)])
    right = logits(llama, [row, short + pad], attention_mask=mask)[0]
    wide = [0, 0, *row]
    seen = torch.tensor([[0, 0] + [1] * len(row)])
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    left = logits(llama, [wide], attention_mask=seen, position_ids=positions)[0, 2:]
    torch.testing.assert_close(right, alone)
    torch.testing.assert_close(left, alone)


def test_generation_with_a_cache_writes_the_target(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    prompt, target = split_target(tokenizer, REQUEST["prompt"], REQUEST["target_new"])
    inputs = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
    written = llama.generate(**inputs, max_new_tokens=len(target), do_sample=False, use_cache=True, eos_token_id=None)
    assert written[0, len(prompt) :].tolist() == target


def test_a_second_edit_of_a_prompt_wins(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    again = {**REQUEST, "target_new": "stands"}
    apply_grace_to_model(llama, tokenizer, [again], hparams)
    assert says(llama, tokenizer, again)
    assert len(codebook_of(llama).labels) == 1


def test_unwrapping_restores_the_model(llama, tokenizer, hparams):
    prompt = tokenizer(REQUEST["prompt"])["input_ids"]
    before = logits(llama, [prompt])
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    assert not torch.equal(logits(llama, [prompt]), before)
    unwrap(llama)
    assert torch.equal(logits(llama, [prompt]), before)
    assert codebook_of(llama) is None


def test_a_resumed_codebook_goes_on_as_if_never_stopped(tokenizer, hparams):
    through, first, second = tiny_model("llama"), tiny_model("llama"), tiny_model("llama")
    apply_grace_to_model(through, tokenizer, [REQUEST], hparams)
    apply_grace_to_model(through, tokenizer, [OTHER], hparams)
    apply_grace_to_model(first, tokenizer, [REQUEST], hparams)
    resume(second, hparams, codebook_of(first).tensors())
    apply_grace_to_model(second, tokenizer, [OTHER], hparams)
    ids = [tokenizer(OTHER["prompt"])["input_ids"]]
    assert torch.equal(logits(second, ids), logits(through, ids))
    assert says(second, tokenizer, REQUEST)


def test_a_copy_is_edited_alone(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    edited, _ = apply_grace_to_model(llama, tokenizer, [OTHER], hparams, copy=True)
    assert says(edited, tokenizer, OTHER)
    assert not says(llama, tokenizer, OTHER)
    unwrap(edited)
    assert not says(edited, tokenizer, REQUEST)
    assert says(llama, tokenizer, REQUEST)


def test_keeping_the_original_drops_earlier_edits(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    apply_grace_to_model(llama, tokenizer, [OTHER], hparams, keep_original_weight=True)
    assert says(llama, tokenizer, OTHER)
    assert not says(llama, tokenizer, REQUEST)


def test_flags_and_gradients_are_put_back(llama, tokenizer, hparams):
    llama.train()
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    assert llama.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in llama.parameters())


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"prompt": " ", "target_new": "Rome"}, "request 1: prompt is ' '"),
        ({"prompt": "Paris is", "target_new": None}, "request 1: target_new is None"),
        ({"prompt": "{} is", "target_new": "Rome"}, "request 1: subject is None"),
    ],
)
def test_a_bad_request_is_named_and_nothing_edited(llama, tokenizer, hparams, request_, named):
    with pytest.raises(FactError, match=named):
        apply_grace_to_model(llama, tokenizer, [REQUEST, request_], hparams)
    assert codebook_of(llama) is None


def test_a_layer_that_is_not_there_is_named(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    for name in ("model.layers[9].mlp.down_proj.weight", MATRIX["llama"].replace("2", "1")):
        with pytest.raises(HyperParamsError, match="inner_params = "):
            apply_grace_to_model(llama, tokenizer, [OTHER], replace(hparams, inner_params=[name]))
    assert says(llama, tokenizer, REQUEST)


def test_a_failed_edit_leaves_the_codebook(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    before = codebook_of(llama)
    broken = tokenizer(OTHER["prompt"])["input_ids"][0]
    with torch.no_grad():
        llama.get_input_embeddings().weight[broken] = torch.nan
    with pytest.raises(ArithmeticError, match="not finite"):
        apply_grace_to_model(llama, tokenizer, [OTHER], hparams)
    assert codebook_of(llama) is before


def test_deepcopied_hooks_are_the_copys_own(llama, tokenizer, hparams):
    apply_grace_to_model(llama, tokenizer, [REQUEST], hparams)
    twin = copy.deepcopy(llama)
    unwrap(llama)
    assert says(twin, tokenizer, REQUEST)
    assert not says(llama, tokenizer, REQUEST)
