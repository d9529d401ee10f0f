"""The model card of an adapter."""

from __future__ import annotations

import json

import pytest

from nse_plugin.patch.columns import PatchError
from nse_plugin.patch.export.factors import factors_of


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
    least = min(one.kept for one in factors_of(patch, 2).values())
    assert f"at least {least:.1%} of the change's squared norm" in card
    patch.to_lora(folder, rank=100)  # written again in its place; the change has a lower rank
    assert "Truncated" not in (folder / "README.md").read_text()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(PatchError, match="holds other files"):
        patch.to_lora(folder)
    assert (folder / "notes.txt").read_text() == "mine"
