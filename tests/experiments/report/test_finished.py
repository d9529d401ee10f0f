"""The finished cells of a sweep, and the settings in which they differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_cells import RIGHT, fabricated, found_in


@pytest.mark.parametrize(
    ("preset", "model", "kept"), [("own.yaml", "smollm2-135m", 0.4), (None, "gpt-j-6B", 0.8), (None, "unknown", 1.0)]
)
def test_the_preset_is_the_sweeps_or_the_models(tmp_path, monkeypatch, preset, model, kept):
    """Without either, the fields' own defaults."""
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("layers: [1]\nalpha: 1\np: 0.4\n")
    for p in (0.4, 0.6, 0.8, 1.0):
        fabricated(tmp_path / "out", RIGHT, p=p, model_name=model, asked={"preset": preset})
    assert found_in(tmp_path / "out")[1].p == kept
