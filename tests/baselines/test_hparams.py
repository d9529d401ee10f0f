"""EasyEdit's hyperparameter files are read for the wheel and for the main branch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nse_plugin import NSEHyperParams
from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.hparams import HyperParamsError
from nse_plugin.hparams.files import preset_path


@pytest.mark.parametrize("family", ["llama"])
def test_files_are_read_for_the_model_at_hand(
    new_model: Callable[[], Any], settings_file: Callable[..., Path], easyeditor: Any
) -> None:
    hparams = load_hparams("FT", settings_file("llama", "FT"), {"num_steps": 9}, new_model())
    assert (hparams.device, hparams.model_name, hparams.num_steps) == ("cpu", "tiny", 9)
    assert (hparams.lr, hparams.norm_constraint) == (1e-3, 5e-4)  # YAML reads 1e-3 as a string
    assert isinstance(load_hparams("NSE", preset_path("NSE", "smollm2-135m"), {}, new_model()), NSEHyperParams)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stepz": 3}, "Unknown hyperparameter 'num_stepz': did you mean 'num_steps'"),
        ({"lr": "absent"}, "lr is missing"),
        ({"alg_name": "FTT"}, "alg_name is 'FTT'"),
    ],
)
@pytest.mark.parametrize("family", ["llama"])
def test_mistakes_in_a_file(
    changes: dict[str, Any], message: str, new_model: Callable[[], Any], settings_file: Callable[..., Path]
) -> None:
    with pytest.raises(HyperParamsError, match=message):
        load_hparams("FT", settings_file("llama", "FT", **changes), {}, new_model())


@pytest.mark.parametrize("family", ["llama"])
def test_what_the_wheel_cannot_do_is_said(
    new_model: Callable[[], Any], settings_file: Callable[..., Path], on_main: bool
) -> None:
    path = settings_file("llama", "FT", objective_optimization="target_new")
    if on_main:
        assert load_hparams("FT", path, {}, new_model()).objective_optimization == "target_new"
    else:
        with pytest.raises(HyperParamsError, match="objective_optimization = 'target_new' cannot be used"):
            load_hparams("FT", path, {}, new_model())


def test_no_such_file(tiny_llama: Any, tmp_path: Path) -> None:
    with pytest.raises(HyperParamsError, match="No hyperparameter file"):
        load_hparams("FT", tmp_path / "none.yaml", {}, tiny_llama)
    with pytest.raises(HyperParamsError, match="No presets for method 'FTL': did you mean 'FT-L'"):
        preset_path("FTL", "gpt2-xl")
    with pytest.raises(HyperParamsError, match="No ROME preset for model 'gpt2-xxl': did you mean 'gpt2-xl'"):
        preset_path("ROME", "gpt2-xxl")


@pytest.mark.parametrize("preset", ["ROME", "MEMIT", "FT-L", "FT-W", "NSE", "GRACE", "MEND"])
def test_presets_are_readable(preset: str, tiny_llama: Any) -> None:
    for model in ("gpt2-xl", "gpt-j-6B", "llama3-8b", "smollm2-135m"):
        alg_name = "FT" if preset.startswith("FT") else preset
        hparams = load_hparams(alg_name, preset_path(preset, model), {}, tiny_llama)
        assert hparams.alg_name == alg_name
        if alg_name == "FT":
            assert (preset == "FT-L") == isinstance(hparams.norm_constraint, float)
            assert (preset == "FT-W") == (hparams.weight_decay == 5e-4)
