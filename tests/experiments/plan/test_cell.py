"""The plan of one cell of a sweep."""

from __future__ import annotations

import pytest
from model_folders import shaped

from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.plan.model import model_config
from nse_plugin.hparams import HyperParamsError


def test_what_the_best_setting_is_loaded_by_is_the_users_folder(tmp_path):
    model = type("Model", (), {"config": model_config(str(shaped(tmp_path / "mine")))})
    own = CellPlan.from_config(composed("sweep", [f"model={tmp_path / 'mine'}"])).hparams(model)
    assert (own.model_name, own.layers) == (str(tmp_path / "mine"), [4, 5, 6])
    assert CellPlan.from_config(composed("sweep", [])).hparams(model).model_name == "smollm2-135m"


def test_p_has_an_effect_in_a_sweep_or_is_refused(tmp_path):
    model = type("Model", (), {"config": model_config(str(shaped(tmp_path / "mine")))})
    assert CellPlan.from_config(composed("sweep", ["nse.p=0.5"])).hparams(model).subspace == "neurons"
    with pytest.raises(HyperParamsError, match="p = 0.5 cannot be used: it selects neurons"):
        CellPlan.from_config(composed("sweep", ["nse.p=0.5", "preset=smollm2-135m"])).hparams(model)
