from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifelong_cases import EDITED, PRESETS, SETTINGS, eigenvalues

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner
from nse_plugin.hparams.files import preset_path


@pytest.fixture
def main_only(on_main: bool) -> None:
    if not on_main:
        pytest.skip("the wheel has none of these: set EASYEDIT_HOME to a clone of EasyEdit's main")


@pytest.fixture(params=["llama", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def method_on(family: str, tiny_tokenizer: Any, stats_dir: Path, main_only: None) -> Callable[..., EasyEditRunner]:
    """A function that makes the runner of a method, with the preset of the family's published model, made smaller."""
    preset = {"llama": "llama3-8b", "gpt2": "gpt2-xl"}[family]

    def make(model: Any, alg_name: str, tokenizer: Any = tiny_tokenizer, **changes: Any) -> EasyEditRunner:
        settings = {**SETTINGS[alg_name], **changes}
        if alg_name == "AlphaEdit":
            settings["stats_dir"] = str(stats_dir / f"{family}-alphaedit")
            if settings["nullspace_threshold"] == "half":
                settings["nullspace_threshold"] = float(eigenvalues(model, settings, tokenizer).median())
        else:
            settings["inner_params"] = [f"{name}.weight" for name in EDITED[alg_name, family]]
        hparams = load_hparams(alg_name, preset_path(PRESETS[alg_name], preset), settings, model)
        return EasyEditRunner(model, tokenizer, alg_name, hparams)

    return make
