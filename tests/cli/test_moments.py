"""`nse moments`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tiny import tiny_model, tiny_tokenizer

from nse_plugin.cli import main
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import second_moments


def test_moments_of_a_saved_model(saved, tmp_path, capsys):
    stats = tmp_path / "stats"
    arguments = ["--model", saved, "--layers", "1,2", "--samples", "30", "--stats-dir", str(stats)]
    assert main(["moments", *arguments]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.split()]
    names = [f"model.layers.{layer}.mlp.down_proj_float32_mom2_30.npz" for layer in (1, 2)]
    assert printed == [stats / "town-model" / "self_stats" / name for name in names]
    hparams = NSEHyperParams(layers=[1, 2], alpha=1, mom2_n_samples=30, stats_dir=str(tmp_path / "others"))
    expected = second_moments(Layout.of(tiny_model("llama", torch.float32)), tiny_tokenizer(), hparams)
    for layer, path in zip((1, 2), printed, strict=True):
        with np.load(path, allow_pickle=False) as data:
            assert np.allclose(data["mom2.mom2"] / data["mom2.count"], expected[layer].numpy(), rtol=1e-5, atol=1e-6)


def test_moments_from_a_text_with_a_file_of_hyperparameters(saved, tmp_path, capsys):
    text, config = tmp_path / "river.txt", tmp_path / "mine.yaml"
    text.write_text("The river runs through the old town because of rain.\n" * 30)
    config.write_text(f"layers: [0, 2]\nalpha: 1\nstats_dir: {tmp_path}/stats\nmom2_n_samples: 20\n")
    assert main(["moments", "--model", saved, "--hparams", str(config), "--text", str(text)]) == 0
    said = capsys.readouterr()
    printed = [Path(line) for line in said.out.split()]
    assert [path.parent.name for path in printed] == ["river_stats"] * 2
    assert all(path.stem.endswith("_mom2_100000") for path in printed)  # the whole of it, as EasyEdit's
    assert f"mom2_dataset: {text}, mom2_n_samples: 100000" in said.err
    assert [path.name.split(".")[2] for path in printed] == ["0", "2"]
    assert all(path.is_file() for path in printed)


def test_a_cache_that_is_a_file_is_told_before_anything_is_measured(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)  # cannot be called
    monkeypatch.setenv("NSE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    assert main(["moments", "--model", saved, "--layers", "1", "--samples", "4"]) == 1
    assert capsys.readouterr() == (
        "",
        f"nse: NSE_HOME = '{tmp_path}/file' cannot be used: {tmp_path}/file is a file; set it to a folder.\n",
    )
