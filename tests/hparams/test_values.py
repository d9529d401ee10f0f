"""Values as YAML, JSON and OmegaConf give them."""

from __future__ import annotations

import pytest

from nse_plugin.hparams import NSEHyperParams


def test_scientific_notation_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-1 and 5e2 as strings."""
    path = tmp_path / "some.yaml"
    path.write_text("layers: [1]\nalpha: 5e0\nv_lr: 1e-1\nmom2_update_weight: 1e4\nupper_bound: 5e2\n")
    hparams = NSEHyperParams.from_hparams(tmp_path / "some")
    assert (hparams.alpha, hparams.v_lr, hparams.mom2_update_weight, hparams.upper_bound) == (5.0, 0.1, 10000.0, 500.0)


def test_omegaconf_containers_are_accepted_when_built_and_when_assigned():
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"layers": [1, 2], "alpha": 3, "v_lr": "5e-1"})
    hparams = NSEHyperParams(**config)
    assert hparams.layers == [1, 2]
    assert type(hparams.layers) is list
    assert hparams.v_lr == 0.5
    hparams.layers = omegaconf.OmegaConf.create([3, 4])
    hparams.check()
    assert type(hparams.layers) is list
