"""A benchmark setting with a tiny model in float64."""

from __future__ import annotations

import dataclasses

import pytest
from tiny import TEMPLATES, tiny_model, tiny_moments, tiny_tokenizer

from benchmarks.setting import SAME_WORK, Setting
from nse_plugin.hparams import NSEHyperParams


def tiny_setting(family: str) -> Setting:
    model = tiny_model(family)
    hparams = NSEHyperParams(
        layers=[1, 2], alpha=0.5, mom2_update_weight=2.0, v_lr=0.1, v_num_grad_steps=6, device="cpu"
    )
    hparams = dataclasses.replace(hparams, **SAME_WORK)
    return Setting(model, tiny_tokenizer(), hparams, TEMPLATES, tiny_moments(model, [1, 2]))


@pytest.fixture(params=["llama", "gpt2"])
def setting(request: pytest.FixtureRequest, all_in_double: None) -> Setting:
    return tiny_setting(request.param)


@pytest.fixture
def roomy(all_in_double: None) -> Setting:
    """A setting with enough positions for the benchmark's facts, which are long in the tiny tokenizer's tokens."""
    setting = tiny_setting("llama")
    setting.model.config.max_position_embeddings = 512
    return setting
