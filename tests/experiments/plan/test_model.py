"""A model of the user's own: called by its folder, tuned by its shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nse_plugin.cli import main
from nse_plugin.experiments.plan import ModelChoice, Plan, PlanError
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.plan.model import check_source, model_config
from nse_plugin.experiments.plan.presets import check_preset_of_sweep, check_presets, preset_of

SMOLLM2 = {
    "model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "vocab_size": 49152, "intermediate_size": 1536,
    "num_attention_heads": 9,
}  # fmt: skip


def shaped(folder: Path, **changed: object) -> Path:
    """A folder that looks like SmolLM2-135M's, but for its weights, which these tests do not read."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], **SMOLLM2, **changed}))
    return folder


def plan(*settings: str) -> Plan:
    return Plan.from_config(composed("compare", settings))


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


# -- presets ----------------------------------------------------------------------------------------------------------


def test_presets_go_by_shape_whatever_the_folder_is_called(tmp_path):
    made = plan(f"model={shaped(tmp_path / 'gpt2-xl')}")
    found = {name: preset_of(choice, made.model) for name, choice in made.methods.items()}
    assert {path.name for path in found.values()} == {"smollm2-135m.yaml"}
    assert {path.parent.name for path in found.values()} == set(made.methods)
    check_presets(made.methods, made.model)


@pytest.mark.parametrize("settings", [["model=FOLDER"], ["model=smollm2-135m", "model.source=FOLDER"]])
def test_without_a_preset_of_its_shape_each_method_is_named_with_what_it_needs(tmp_path, settings):
    folder = shaped(tmp_path / "smollm2-135m", num_hidden_layers=8)
    settings = [word.replace("FOLDER", str(folder)) for word in settings]
    made = plan("methods=[NSE,ROME]", *settings)
    with pytest.raises(PlanError) as refused:
        check_presets(made.methods, made.model)
    said = str(refused.value)
    assert said.startswith(
        "There are no hyperparameters for NSE, ROME on smollm2-135m, a llama of 8 layers, hidden size"
    )
    assert "give methods.NSE.preset=FILE.yaml methods.ROME.preset=FILE.yaml" in said
    assert f"`nse tune --model {folder} --facts FILE` writes NSE's" in said
    assert "+methods.NSE.hparams={layers:" in said
    given = ["+methods.NSE.hparams={layers:[1,2],alpha:0.5}"]
    with pytest.raises(PlanError, match=r"hyperparameters for ROME on .*FILE\.yaml, or leave ROME out of methods\.$"):
        check_presets(plan("methods=[NSE,ROME]", *settings, *given).methods, made.model)
    check_presets(plan("methods=[NSE]", *settings, *given).methods, made.model)
    (tmp_path / "rome.yaml").write_text("alg_name: ROME\n")
    given.append(f"methods.ROME.preset={tmp_path}/rome.yaml")
    check_presets(plan("methods=[NSE,ROME]", *settings, *given).methods, made.model)


@pytest.mark.parametrize("preset", [True, False], ids=["a file", "none"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("layers:[1,99],alpha:1", r"layers = \[1, 99\] cannot be used: mine has 30 layers, counted from 0, .* is 28\."),
        ("layers:[28,29],alpha:1", r"layers = \[28, 29\] cannot be used"),
        ("layers:[1,2],alpha:abc", "alpha = 'abc' cannot be used: use a number above 0"),
        ("layers:[1,2],alpha:1,p:1.5", "p = 1.5 cannot be used"),
        ("layer:[1,2],alpha:1", "'layer': did you mean 'layers'"),
        ("neuron_treshold:0.5", "'neuron_treshold': did you mean 'neuron_threshold'"),
    ],
)
def test_hyperparameters_of_nse_are_checked_before_anything_is_loaded(preset, given, words, tmp_path):
    folder = shaped(tmp_path / "mine")
    (tmp_path / "own.yaml").write_text("alg_name: NSE\nlayers: [1]\nalpha: 1.0\n")
    settings = [f"model={folder}", "methods=[NSE]", f"+methods.NSE.hparams={{{given}}}"]
    made = plan(*settings, *([f"methods.NSE.preset={tmp_path}/own.yaml"] if preset else []))
    with pytest.raises(PlanError, match=rf"^methods\.NSE: .*{words}"):
        check_presets(made.methods, made.model)


def test_a_preset_that_is_not_there_and_a_folder_of_presets_that_is_not(tmp_path):
    folder = shaped(tmp_path / "mine")
    made = plan(f"model={folder}", "methods=[NSE]", "methods.NSE.preset=/nowhere.yaml")
    with pytest.raises(PlanError, match=r"preset = '/nowhere\.yaml': there is no such file"):
        check_presets(made.methods, made.model)
    made = plan(f"model={folder}", "methods=[ROME]", "methods.ROME.preset=ROMY")
    with pytest.raises(ValueError, match="No presets for method 'ROMY': did you mean 'ROME'"):
        check_presets(made.methods, made.model)


def test_a_sweep_needs_layers_and_alpha_or_a_preset(tmp_path):
    folder = shaped(tmp_path / "mine", hidden_size=64, num_attention_heads=4)

    def check(*more: str) -> None:
        check_preset_of_sweep(CellPlan.from_config(composed("sweep", [f"model={folder}", *more])))

    for given in ([], ["nse.layers=[1,2]"], ["nse.alpha=3"]):
        with pytest.raises(
            PlanError, match=r"for NSE on mine, .*; give preset=FILE\.yaml .*, or nse\.layers=\[\.\.\.\]"
        ):
            check(*given)
    check("nse.layers=[1,2]", "nse.alpha=3")
    check("preset=llama3-8b")
    assert main(["sweep", f"model={folder}", "data=demo", "facts=2", f"out={tmp_path / 'out'}"]) == 1
    assert not (tmp_path / "out").exists()


def test_what_the_best_setting_is_loaded_by_is_the_users_folder(tmp_path):
    model = type("Model", (), {"config": model_config(str(shaped(tmp_path / "mine")))})
    own = CellPlan.from_config(composed("sweep", [f"model={tmp_path / 'mine'}"])).hparams(model)
    assert (own.model_name, own.layers) == (str(tmp_path / "mine"), [4, 5, 6])
    assert CellPlan.from_config(composed("sweep", [])).hparams(model).model_name == "smollm2-135m"


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
