"""The model card of an adapter."""

from __future__ import annotations

import json

import pytest

from nse_plugin.patch.columns import PatchError


def test_the_card_and_the_configuration(patch, tmp_path):
    folder = patch.to_lora(tmp_path / "adapter", rank=2)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (2, 2, False)
    assert config["target_modules"] == ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    for word in (
        "base_model_relation: adapter",
        "4 edited facts",
        patch.others,
        "--max-lora-rank 8",
        "Truncated to 2",
    ):
        assert word in card
    patch.to_lora(folder)  # written again in its place
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(PatchError, match="holds other files"):
        patch.to_lora(folder)
    assert (folder / "notes.txt").read_text() == "mine"
