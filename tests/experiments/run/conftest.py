from __future__ import annotations

import pytest


@pytest.fixture
def settings(tiny_experiment, tmp_path) -> list[str]:
    """Settings of a small sweep."""
    return [
        *tiny_experiment, "nse.layers=[1,2]", "nse.v_num_grad_steps=4", "nse.mom2_n_samples=8",
        f"store={tmp_path / 'store'}",
    ]  # fmt: skip
