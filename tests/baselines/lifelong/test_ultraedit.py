"""The memory of UltraEdit from EasyEdit's main branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lifelong_cases import FACTS

from nse_plugin.baselines.runner import EasyEditRunner

pytestmark = pytest.mark.usefixtures("easyeditor")


def test_ultraedit_normalises_over_all_rounds(
    new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    model = new_model()
    method = method_on(model, "ULTRAEDIT", half=True)
    for round_ in (FACTS[:2], FACTS[2:]):
        method.edit(round_)
    tokens = sum(len(tiny_tokenizer(f"{fact.text} {fact.target_new}")["input_ids"]) for fact in FACTS)
    state = method.state()
    assert state is not None
    (counted,) = (int(tensor) for name, tensor in state.items() if name.startswith("ultraedit.") and name[-2:] == ".n")
    assert counted == 2 * tokens  # once for each matrix of the shape
    assert model.dtype == torch.float32
