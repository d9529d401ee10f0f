from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from easyedit_fixtures import (
    capitals,
    easyeditor,
    edited,
    editor_of,
    hparams,
    new_llama,
    new_model,
    on_main,
    protected,
    quiet_folder,
    stats_dir,
    tiny_gpt2_source,
    tiny_llama,
    tiny_llama_source,
    tiny_tokenizer,
)
from method_files import FAMILIES, SETTINGS

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner

__all__ = [
    "capitals",
    "easyeditor",
    "edited",
    "editor_of",
    "hparams",
    "new_llama",
    "new_model",
    "on_main",
    "protected",
    "quiet_folder",
    "stats_dir",
    "tiny_gpt2_source",
    "tiny_llama",
    "tiny_llama_source",
    "tiny_tokenizer",
]


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings_file(tmp_path: Path, stats_dir: Path) -> Callable[..., Path]:
    def write(family: str, alg_name: str, /, **changes: Any) -> Path:
        layer, mlp, attention, norm, head = FAMILIES[family]
        config = {
            "alg_name": alg_name, "model_name": "tiny", "device": 0, "stats_dir": str(stats_dir / family),
            "rewrite_module_tmp": f"{layer}.{mlp}", "layer_module_tmp": layer, "mlp_module_tmp": f"{layer}.mlp",
            "attn_module_tmp": f"{layer}.{attention}", "ln_f_module": norm, "lm_head_module": head,
            **SETTINGS[alg_name], **changes,
        }  # fmt: skip
        if alg_name == "FT":
            del config["stats_dir"]
        path = tmp_path / f"{alg_name}.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in config.items() if value != "absent"}))
        return path

    return write


@pytest.fixture
def method_on(family: str, tiny_tokenizer: Any, settings_file: Callable[..., Path]) -> Callable[..., EasyEditRunner]:
    def make(model: Any, alg_name: str, **changes: Any) -> EasyEditRunner:
        hparams = load_hparams(alg_name, settings_file(family, alg_name), changes, model)
        return EasyEditRunner(model, tiny_tokenizer, alg_name, hparams)

    return make
