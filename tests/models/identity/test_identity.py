"""A model's identity: equal for equal models, and different if anything differs that the outputs depend on."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import tiny_model

from nse_plugin.models.identity import ModelIdentity


def with_buffer(model):
    model.model.layers[0].mlp.register_buffer("correction", torch.zeros(3, dtype=torch.int64))
    model.model.layers[3].mlp.factors = [[1.0, 2.0], torch.zeros(2), lambda x: x]
    return model


def change_config(model):
    model.config.rms_norm_eps = 0.1


def change_parameter(model):
    model.model.layers[3].self_attn.k_proj.weight.data[1, 1] += 1


def change_vector(model):
    model.model.norm.weight.data[5] += 1


def change_buffer(model):
    model.model.layers[0].mlp.correction[1] = 2


def change_rotary(model):
    model.model.rotary_emb.inv_freq *= 2


def change_class(model):
    class Other(type(model.model.layers[2].mlp)):
        pass

    model.model.layers[2].mlp.__class__ = Other


def change_setting(model):
    model.model.layers[3].self_attn.scaling *= 2


def change_tie(model):
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[2].mlp.up_proj.weight


def change_list(model):
    model.model.layers[3].mlp.factors[0][1] = 3.0


def change_plain_tensor(model):
    model.model.layers[3].mlp.factors[1].add_(1)


def change_function(model):
    model.model.layers[3].mlp.factors[2] = lambda x: x + 1


CHANGES = [
    change_config, change_parameter, change_vector, change_buffer, change_rotary, change_class, change_setting,
    change_tie, change_list, change_plain_tensor, change_function,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_a_model_computes_with_is_in_it(change):
    model = with_buffer(tiny_model("llama"))
    identity, full, quick = ModelIdentity(model), ModelIdentity(model).full(), ModelIdentity(model).quick()
    assert (identity.full(), identity.quick()) == (full, quick)
    model(input_ids=torch.tensor([[1, 2, 3]]))  # running it changes nothing
    assert (identity.full(), identity.quick()) == (full, quick)
    assert ModelIdentity(copy.deepcopy(model)).full() == full
    change(model)
    assert identity.full() != full
    assert identity.quick() != quick


def test_where_it_came_from_and_what_it_returns_are_not(llama):
    full = ModelIdentity(llama).full()
    llama.config._name_or_path = "elsewhere"
    llama.config.output_hidden_states = llama.config.use_cache = True
    llama.train().requires_grad_(False)
    assert ModelIdentity(llama).full() == full


def test_a_model_may_be_taken_as_if_in_another_dtype():
    half = tiny_model("llama", torch.bfloat16)
    upcast = copy.deepcopy(half).to(torch.float32)
    assert ModelIdentity(upcast).full() != ModelIdentity(half).full()
    assert ModelIdentity(upcast).full(torch.bfloat16) == ModelIdentity(half).full(torch.bfloat16)
    upcast.model.layers[0].self_attn.q_proj.weight.data *= 2
    assert ModelIdentity(upcast).full(torch.bfloat16) != ModelIdentity(half).full(torch.bfloat16)


def test_a_model_loaded_in_inference_mode_has_one():
    with torch.inference_mode():
        model = tiny_model("llama")
    assert ModelIdentity(model).quick() == ModelIdentity(model).quick()
    assert ModelIdentity(model).full() == ModelIdentity(tiny_model("llama")).full()


def test_it_is_the_same_for_a_model_that_was_saved(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    loaded = type(llama).from_pretrained(tmp_path, dtype=torch.float64)
    loaded.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2)
    assert ModelIdentity(loaded).full() == ModelIdentity(llama).full()


def test_the_random_state_is_untouched(llama):
    state = torch.get_rng_state()
    ModelIdentity(llama).full()
    ModelIdentity(llama).quick()
    assert torch.equal(torch.get_rng_state(), state)
