"""The places where second moments are kept."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from moment_files import named
from tiny import tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments.provider import moments_are_kept, second_moments
from nse_plugin.moments.storage import moments_folder
from nse_plugin.support.files import cache_home


def test_without_a_folder_they_are_found_in_the_users_cache_whatever_the_model_is_called(
    tokenizer, settings, monkeypatch
):
    settings = dataclasses.replace(settings, stats_dir=None)
    first = second_moments(named(tiny_model("llama"), "./my-model"), tokenizer, settings)
    assert moments_folder(settings) == cache_home() / "moments"
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    layout = named(tiny_model("llama"), "org/the-same")
    assert moments_are_kept(layout, tokenizer, settings)
    again = second_moments(layout, tokenizer, settings)
    assert all(torch.equal(again[layer], first[layer]) for layer in (1, 2))
    assert not moments_are_kept(Layout.of(tiny_model("llama", seed=1)), tokenizer, settings)
