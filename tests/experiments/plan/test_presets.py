"""The hyperparameters that a method starts from."""

from __future__ import annotations

import pytest
from model_folders import plan, shaped

from nse_plugin.cli import main
from nse_plugin.experiments.plan import PlanError
from nse_plugin.experiments.plan.cell import CellPlan
from nse_plugin.experiments.plan.configuration import composed
from nse_plugin.experiments.plan.presets import check_preset_of_sweep, check_presets, preset_of


def test_presets_go_by_shape_whatever_the_folder_is_called(tmp_path):
    made = plan(f"model={shaped(tmp_path / 'gpt2-xl')}")
    found = {name: preset_of(choice, made.model) for name, choice in made.methods.items()}
    assert {path.name for path in found.values()} == {"smollm2-135m.yaml"}
    assert {path.parent.name for path in found.values()} == set(made.methods)
    check_presets(made.methods, made.model)


def test_methods_of_the_paper_start_from_its_setting(tmp_path):
    made = plan("methods=[NSE,NSE-paper,sequential-MEMIT]", "model=smollm2-135m")
    names = {name: preset_of(choice, made.model).name for name, choice in made.methods.items()}
    paper = "smollm2-135m-paper.yaml"
    assert names == {"NSE": "smollm2-135m.yaml", "NSE-paper": paper, "sequential-MEMIT": paper}
    gpt2 = shaped(tmp_path / "xl", model_type="gpt2", num_hidden_layers=48, hidden_size=1600, vocab_size=50257)
    made = plan("methods=[NSE,NSE-paper]", f"model={gpt2}")
    assert {preset_of(choice, made.model).name for choice in made.methods.values()} == {"gpt2-xl.yaml"}
    own = tmp_path / "mine.yaml"
    own.write_text("layers: [1]\nalpha: 1.0\n")
    made = plan("methods=[NSE,NSE-paper]", "model=smollm2-135m", f"methods.NSE.preset={own}")
    assert {preset_of(choice, made.model) for choice in made.methods.values()} == {own}


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
