"""Second moments in a store."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_model

from nse_plugin.models.layout import Layout
from nse_plugin.moments import provider as module
from nse_plugin.moments.provider import second_moments
from nse_plugin.moments.storage import moments_folder
from nse_plugin.store import Store


@pytest.mark.parametrize("asked_with", ["store", "neither"])
@pytest.mark.parametrize("measured_with", ["store", "neither"])
def test_moments_are_found_wherever_they_were_kept(
    asked_with, measured_with, tokenizer, settings, tmp_path, monkeypatch
):
    def kept(name, place):
        folders = {"stats_dir": None, "store": None}
        return dataclasses.replace(settings, **folders | ({} if name == "neither" else {name: str(tmp_path / place)}))

    first = second_moments(Layout.of(tiny_model("llama")), tokenizer, kept(measured_with, "one"))
    monkeypatch.setattr(module, "measure_moments", lambda *_: pytest.fail("measured again"))
    again = second_moments(Layout.of(tiny_model("llama")), tokenizer, kept(asked_with, "other"))
    assert all(torch.equal(again[layer], first[layer]) for layer in (1, 2))
    assert len(Store(moments_folder(kept(asked_with, "other"))).entries()) == 2  # where it was asked for, too
