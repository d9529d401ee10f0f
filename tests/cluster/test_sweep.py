"""`nse sweep` on Ray gives the same table as in one process."""

from __future__ import annotations

import pytest

from nse_plugin.experiments.run.sweep import sweep


def test_ray_gives_the_same_table(tiny_experiment, tmp_path, capfd):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    import ray

    settings = [*tiny_experiment, "nse.layers=[1,2]", "nse.v_num_grad_steps=4", "nse.mom2_n_samples=8"]
    settings += ["nse.p=0.4,1.0", "nse.alpha=0.05,1"]
    here = ["hydra/launcher=ray", "hydra.launcher.ray.init.address=local", "+hydra.launcher.ray.init.num_cpus=2"]
    try:
        sweep([*settings, *here, f"store={tmp_path / 'theirs'}", f"out={tmp_path / 'ray'}"])
    finally:
        ray.shutdown()  # hydra leaves it running
    assert "4 cells: 6 values z computed, 18 read from the store" in capfd.readouterr().out
    sweep([*settings, "hydra/launcher=basic", f"store={tmp_path / 'ours'}", f"out={tmp_path / 'basic'}"])
    assert (tmp_path / "ray" / "sweep.csv").read_text() == (tmp_path / "basic" / "sweep.csv").read_text()
