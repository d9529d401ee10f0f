"""The key of a value in a store contains everything that the value depends on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import TEMPLATES, tiny_facts, tiny_model, tiny_tokenizer

from nse_plugin.method.value_cache_key import value_cache_keys
from nse_plugin.models.identity import ModelIdentity
from nse_plugin.models.prompts import encode_fact


def address(hparams, model=None, fact=None, tokenizer=None, templates=TEMPLATES) -> str:
    model, fact = model or tiny_model("llama"), fact or tiny_facts()[0]
    rows = [encode_fact(tokenizer or tiny_tokenizer(), fact, list(templates))]
    return value_cache_keys(ModelIdentity(model).full(), rows, hparams)[0]


def test_what_z_does_not_depend_on_does_not_matter(hparams):
    others = {
        "p": 0.5, "alpha": 3.0, "mom2_update_weight": 7.0, "max_iterations": 1, "accumulate": False, "layers": [0, 2],
    }  # fmt: skip
    assert address(dataclasses.replace(hparams, **others)) == address(hparams)
    assert address(hparams, tokenizer=tiny_tokenizer(padding_side="left")) == address(hparams)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": [1, 3]}, {"v_lr": 0.2}, {"v_num_grad_steps": 7}, {"v_weight_decay": 0.1}, {"kl_factor": 0.5},
        {"clamp_norm_factor": 4.0}, {"solver": "fast"},
    ],
)  # fmt: skip
def test_every_setting_of_the_value_step_is_another_address(hparams, change):
    assert address(dataclasses.replace(hparams, **change)) != address(hparams)


def test_model_fact_template_and_tokenizer_are_part_of_the_address(hparams):
    model, fact = tiny_model("llama"), tiny_facts()[0]
    found = {
        address(hparams),
        address(hparams, model=tiny_model("llama", seed=1)),
        address(hparams, fact=dataclasses.replace(fact, target_new="Berlin")),
        address(hparams, fact=dataclasses.replace(fact, prompt="The old capital of {} is")),
        address(hparams, templates=TEMPLATES[:2]),
        address(hparams, tokenizer=tiny_tokenizer(bos=True)),
    }
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6  # one bit or two, far from any edited layer
    found.add(address(hparams, model=model))
    model = tiny_model("llama")
    model.config.rms_norm_eps *= 2
    found.add(address(hparams, model=model))
    assert len(found) == 8
