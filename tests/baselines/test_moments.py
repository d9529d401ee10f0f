"""Second moments for the methods of other authors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import F, tiny_model, tiny_tokenizer

from nse_plugin.baselines.moments import asks_for_moments, moments_for
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import second_moments

MEMIT = SimpleNamespace(
    layers=[2, 1], rewrite_module_tmp="model.layers.{}.mlp.down_proj", mom2_dataset="self", mom2_n_samples=2,
    mom2_dtype="float32", stats_dir=None, mom2_adjustment=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("alg_name", "hparams", "asks"),
    [
        ("MEMIT", MEMIT, True),
        ("NSE", MEMIT, False),  # finds its own
        ("FT", SimpleNamespace(lr=1e-3), False),
        ("ROME", MEMIT, False),
        ("ROME", SimpleNamespace(mom2_dataset="self", mom2_adjustment=True), True),
    ],
)
def test_who_asks_for_them(alg_name, hparams, asks):
    assert asks_for_moments(alg_name, hparams) is asks


def test_they_are_nses_by_the_names_of_modules(tmp_path):
    model, tokenizer, store = tiny_model("llama", torch.float32), tiny_tokenizer(), str(tmp_path)
    found = moments_for(model, tokenizer, "MEMIT", MEMIT, store)
    assert moments_for(model, tokenizer, "FT", SimpleNamespace(), store) == {}
    own = NSEHyperParams(layers=[1, 2], alpha=3.0, mom2_n_samples=2, mom2_dataset="self", store=store)
    expected = second_moments(Layout.of(model), tokenizer, own)
    assert list(found) == [f"model.layers.{layer}.mlp.down_proj" for layer in (1, 2)]
    for layer, name in zip((1, 2), found, strict=True):
        assert found[name].shape == (F, F)
        assert torch.equal(found[name], expected[layer])
