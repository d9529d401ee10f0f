"""GRACE's hyperparameters, in EasyEdit's files and in ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nse_plugin.baselines.grace import GRACEHyperParams
from nse_plugin.hparams import HyperParamsError

PRESETS = sorted((Path(__file__).parents[3] / "hparams" / "GRACE").glob("*.yaml"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("eps", 0), ("edit_lr", "fast"), ("dist_fn", "cos"), ("replacement", "replace_all"), ("inner_params", [])],
)
def test_a_hyperparameter_that_cannot_be_used_is_named(hparams, field, value):
    with pytest.raises(HyperParamsError, match=f"{field} = "):
        replace(hparams, **{field: value})


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_read(path):
    hparams = GRACEHyperParams.from_hparams(path.with_suffix(""))
    assert hparams.eps > 0
    easyedit_main = {"val_reg", "reg", "num_pert", "dropout", "val_train", "eps_expand", "replacement", "device"}
    assert easyedit_main < yaml.safe_load(path.read_text()).keys()


def test_all_presets_are_there():
    assert [path.stem for path in PRESETS] == ["gpt-j-6B", "gpt2-xl", "llama3-8b", "smollm2-135m"]


def test_a_misspelt_key_is_named(tmp_path):
    path = tmp_path / "grace.yaml"
    path.write_text("inner_params: [a.weight]\nepsilon: 1.0\n")
    with pytest.raises(HyperParamsError, match="epsilon"):
        GRACEHyperParams.from_hparams(path)
