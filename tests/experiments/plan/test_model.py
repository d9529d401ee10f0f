"""A user's own model: named after its folder, with hyperparameters chosen by its shape."""

from __future__ import annotations

import json

import pytest
from model_folders import plan

from nse_plugin.cli import main
from nse_plugin.experiments.plan import ModelChoice, Plan, PlanError
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.plan.model import check_source, model_config, model_tokenizer


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_a_folder_or_a_name_on_the_hub_is_a_model(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for folder in ("my-model", "with space, and='quote"):
        (tmp_path / folder).mkdir()
    expected = {
        "./my-model": "my-model", "my-model": "my-model", "my-model/": "my-model", f"{tmp_path}/my-model": "my-model",
        "'my-model'": "my-model", ".": tmp_path.name, "org/Name-1.5b": "Name-1.5b", "embedded": "embedded",
    }  # fmt: skip
    for source, name in expected.items():
        made = ModelChoice.from_config(composed(command, [f"model={source}"])["model"])
        assert (made.name, made.source, made.device) == (name, source.strip("'"), "cpu")
    assert composed(command, ["model=./my-model", "model.device=cuda:1"])["model"]["device"] == "cuda:1"
    assert composed(command, ["model=./with space, and='quote"])["model"]["source"] == "./with space, and='quote"


def test_a_source_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan("model=~/mine").model == ModelChoice("mine", str(tmp_path / "mine"))


def test_a_source_of_ones_own_is_not_called_by_a_presets_name(tmp_path):
    made = plan(f"model.source={tmp_path}", "model=gpt2-xl").model
    assert (made.name, made.device) == (tmp_path.name, "cuda:0")
    assert plan(f"model.source={tmp_path}", "model.name=mine").model.name == "mine"
    assert plan("model=gpt2-xl").model.name == "gpt2-xl"
    again = plan(f"model={tmp_path}")
    assert Plan.from_config(json.loads(json.dumps(again.as_config()))) == again  # as a worker reads it


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./nosuch", "model ./nosuch: there is no such folder."),
        ("/no/such/folder", "there is no such folder"),
        ("empty", "model empty holds no model: write one there with `model.save_pretrained`."),
        ("file.bin", "is a file: give the folder that holds the model"),
        ("nowhere.gguf", "nowhere.gguf: there is no such file"),
    ],
)
def test_a_folder_that_is_none(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.bin").write_bytes(b"")
    with pytest.raises(PlanError, match=words):
        check_source(source)
    with pytest.raises(PlanError, match=words):
        model_config(source)


def test_a_name_that_is_neither_here_nor_on_the_hub(monkeypatch):
    def refuse(*_, **__):
        raise OSError("We couldn't connect\nto the hub.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(PlanError, match=r"model org/no: there is no such folder, and from the hub: We couldn't"):
        model_config("org/no")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "Cannot load\nit. Are you online? See https://a.org/" + "x" * 200,
            "Cannot load it. Are you online?",
        ),
        ("Cannot load " + "it " * 100 + "at all. Sorry.", "Cannot load " + "it " * 100 + "at all."),
        ("No full stop", "No full stop"),
    ],
)
def test_a_long_reason_is_cut_after_a_sentence(tmp_path, monkeypatch, said, kept):
    def refuse(*_, **__):
        raise OSError(said)

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    for read, source in ((model_config, f"org/{len(said)}"), (model_config, tmp_path), (model_tokenizer, "org/no")):
        with pytest.raises(PlanError) as caught:
            read(str(source))
        assert str(caught.value).endswith(f": {kept}")


def test_an_interval_is_a_value_too(tiny_experiment, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    folder = tiny_experiment[0].partition("=")[2]
    arguments = [
        f"model={folder}", *tiny_experiment[1:], "nse.layers=[1,2]", "nse.alpha=interval(1,2)", "hydra/sweeper=optuna",
        "hydra/launcher=basic", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1", "nse.v_num_grad_steps=2",
        "nse.mom2_n_samples=4", f"out={tmp_path / 'out'}", "store=null",
    ]  # fmt: skip
    assert main(["sweep", *arguments]) == 0
    assert f"model_name: {folder}" in (tmp_path / "out" / "best.yaml").read_text()
