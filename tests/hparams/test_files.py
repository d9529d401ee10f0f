"""Hyperparameter files are found and read, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from preset_files import PUBLISHED, ROOT, authors_file, figures_of

from nse_plugin.hparams import HyperParamsError, NSEHyperParams


@pytest.mark.parametrize("spelling", ["gpt2-xl", "gpt2-xl.yaml", "hparams/NSE/gpt2-xl", "./hparams/NSE/gpt2-xl.yaml"])
@pytest.mark.parametrize("folder", [ROOT, Path("/")], ids=["checkout", "elsewhere"])
def test_presets_are_found_by_name_and_as_easyedit_spells_paths(spelling, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert figures_of(NSEHyperParams.from_hparams(spelling)) == PUBLISHED["gpt2-xl"]


def test_the_users_own_file_goes_before_the_bundled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hparams/NSE").mkdir(parents=True)
    Path("hparams/NSE/gpt2-xl.yaml").write_text("layers: [1]\nalpha: 7\n")
    assert NSEHyperParams.from_hparams("hparams/NSE/gpt2-xl").alpha == 7
    assert NSEHyperParams.from_hparams("gpt2-xl").alpha == 35


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_authors_json_loads_unchanged(name, tmp_path):
    path = tmp_path / "authors.json"
    path.write_text(json.dumps(authors_file(name)))
    hparams = NSEHyperParams.from_hparams(path)
    assert figures_of(hparams) == PUBLISHED[name]
    assert hparams.rewrite_module_tmp == "model.layers.{}.mlp.down_proj"
    assert NSEHyperParams.from_json(str(path)) == hparams


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers: [1]\nalhpa: 3", ["'alhpa'", "did you mean 'alpha'"]),
        ("layers: [1]\nneuron_treshold: 0.8", ["'neuron_treshold'", "did you mean 'neuron_threshold'"]),
        ("layers: [1]\nalpha: 3\nxyzzy: 0.8", ["'xyzzy'", "the fields are", "max_iterations"]),
        ("layers: [1]\nalpha: 3\n7: 0.8", ["7"]),
        ("layers: [1]\nalpha: 3\np: 0.8\nneuron_threshold: 0.8", ["'p'", "'neuron_threshold'", "one of them"]),
        ("layers: [1]\nalpha: 3\nneuron_threshold: 0.8\np: 0.8", ["'p'", "'neuron_threshold'", "one of them"]),
        ("layers: [1]", ["alpha", "missing"]),
        ("alpha: 1", ["layers", "missing"]),
        ("layers: [1\nalpha: 3", ["not readable as YAML"]),
        ("just words", ["no mapping"]),
        ("", ["no mapping"]),
        ("alg_name: ROME\nlayers: [1]\nalpha: 3", ["alg_name", "'ROME'"]),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(HyperParamsError) as caught:
        NSEHyperParams.from_hparams(path)
    message = str(caught.value)
    assert str(path) in message
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize(("name", "hint"), [("llama3-8", "did you mean 'llama3-8b'"), ("zzz", "gpt2-xl")])
def test_an_unknown_preset_names_the_ones_there_are(name, hint):
    with pytest.raises(HyperParamsError, match=hint):
        NSEHyperParams.from_hparams(name)
