"""Which of EasyEdit's algorithms get a memory of their own between rounds."""

from __future__ import annotations

from typing import Any

import pytest
from lifelong_cases import PRESETS

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner, MethodError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.hparams.files import preset_path

pytestmark = pytest.mark.usefixtures("easyeditor")


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_the_wheel_has_none_of_them(alg_name: str, tiny_llama: Any, tiny_tokenizer: Any, on_main: bool) -> None:
    if on_main:
        pytest.skip("main has them")
    said = "this EasyEdit has no such algorithm; EasyEdit's main has it: clone .* and set EASYEDIT_HOME"
    with pytest.raises(HyperParamsError, match=said):
        load_hparams(alg_name, preset_path(PRESETS[alg_name], "smollm2-135m"), {}, tiny_llama)
    with pytest.raises(MethodError, match=said):
        EasyEditRunner(tiny_llama, tiny_tokenizer, alg_name, None)
