"""The weight changes of AlphaEdit from EasyEdit's main branch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lifelong_cases import EDITED, FACTS, moments_of

from nse_plugin.baselines.runner import EasyEditRunner, MethodError

pytestmark = pytest.mark.usefixtures("easyeditor")


def test_alphaedit_writes_into_the_null_space(
    family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    model, before = new_model(), dict(new_model().named_parameters())
    method = method_on(model, "AlphaEdit")
    method.edit(FACTS[:2])
    moments = moments_of(new_model(), vars(method.hparams), tiny_tokenizer)
    for layer, name in zip((1, 2), EDITED["AlphaEdit", family], strict=True):
        weight = model.get_parameter(f"{name}.weight")
        update = (weight - before[f"{name}.weight"]).detach().double()
        eigenvalues, vectors = torch.linalg.eigh(moments[layer].double())
        used = vectors[:, eigenvalues > 1.01 * method.hparams.nullspace_threshold]
        assert 0 < used.shape[1] < 48
        update = update if update.shape[1] == 48 else update.T
        assert (update @ used).norm() < 1e-4 * update.norm()


def test_alphaedit_without_a_null_space(new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]) -> None:
    with pytest.raises(MethodError, match=r"nullspace_threshold = 0.0 is below every eigenvalue of layer 1"):
        method_on(new_model(), "AlphaEdit", nullspace_threshold=0.0).edit(FACTS[:1])
