"""Hyperparameters: published figures, YAML and JSON, EasyEdit's habits, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny_model

from nse_plugin.hparams import TUNED_FOR, HyperParamsError, NSEHyperParams
from nse_plugin.hparams.tuned import Llama3NSEHyperParams

ROOT = Path(__file__).parents[2]
BUNDLED = sorted((ROOT / "hparams" / "NSE").glob("*.yaml"))

# arXiv 2410.04045 and its code: layers, alpha, upper_bound, p, max_iterations, v_lr, steps, lambda
PUBLISHED = {
    "gpt2-xl": ([13, 14, 15, 16, 17], 35, 150, 1.0, 3, 0.5, 20, 10000),
    "gpt-j-6B": ([3, 4, 5, 6, 7, 8], 15, 100, 0.8, 3, 0.5, 25, 15000),
    "llama3-8b": ([4, 5, 6, 7, 8], 2.5, 50, 1.0, 3, 0.1, 25, 15000),
}
FIGURES = (
    "layers", "alpha", "upper_bound", "p", "max_iterations", "v_lr", "v_num_grad_steps", "mom2_update_weight"
)  # fmt: skip


def authors_file(name: str) -> dict:
    """A file with the keys of the authors' repository and of EasyEdit's MEMIT, none of them NSE's own."""
    layers, alpha, upper_bound, p, max_iterations, v_lr, steps, weight = PUBLISHED[name]
    return {
        "model_name": "Some-Model", "layers": layers, "clamp_norm_factor": 0.75, "layer_selection": "all",
        "fact_token": "subject_last", "v_num_grad_steps": steps, "v_lr": v_lr, "v_loss_layer": 31,
        "v_weight_decay": 0.5, "kl_factor": 0.0625, "mom2_adjustment": True, "mom2_update_weight": weight,
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj", "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp", "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm", "lm_head_module": "lm_head", "mom2_dataset": "wikipedia",
        "mom2_n_samples": 100000, "mom2_dtype": "float32", "alpha": alpha, "upper_bound": upper_bound,
        "max_iterations": max_iterations, "neuron_threshold": p,
    }  # fmt: skip


def figures_of(hparams: NSEHyperParams) -> tuple:
    return tuple(getattr(hparams, name) for name in FIGURES)


# -- presets -----------------------------------------------------------------------------------------------------


def test_every_tuned_model_has_its_yaml():
    assert {path.stem for path in BUNDLED} == {cls.aliases[0] for cls in TUNED_FOR}


@pytest.mark.parametrize("cls", TUNED_FOR)
def test_the_yaml_and_the_dataclass_say_the_same(cls):
    assert NSEHyperParams.from_hparams(cls.aliases[0]).to_dict() == cls().to_dict()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name):
    hparams = NSEHyperParams.from_hparams(name)
    assert figures_of(hparams) == PUBLISHED[name]
    assert (hparams.clamp_norm_factor, hparams.v_weight_decay, hparams.kl_factor) == (0.75, 0.5, 0.0625)
    assert (hparams.mom2_dataset, hparams.mom2_n_samples) == ("wikipedia", 100000)
    assert (hparams.preset, hparams.rewind, hparams.accumulate) == ("paper", True, True)


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


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_authors_json_loads_unchanged(name, tmp_path):
    path = tmp_path / "authors.json"
    path.write_text(json.dumps(authors_file(name)))
    hparams = NSEHyperParams.from_hparams(path)
    assert figures_of(hparams) == PUBLISHED[name]
    assert hparams.rewrite_module_tmp == "model.layers.{}.mlp.down_proj"
    assert NSEHyperParams.from_json(str(path)) == hparams


@pytest.mark.parametrize(("key", "value"), [("mom2_adjustment", False), ("layer_selection", "random")])
def test_settings_nse_does_not_have_are_not_ignored(key, value, tmp_path):
    path = tmp_path / "authors.json"
    path.write_text(json.dumps({**authors_file("gpt2-xl"), key: value}))
    with pytest.raises(HyperParamsError, match=f"{key} = {value!r}"):
        NSEHyperParams.from_hparams(path)


def test_the_value_steps_solver_may_stand_under_values(tmp_path):
    file = tmp_path / "nse.yaml"
    file.write_text("layers: [1]\nalpha: 2\nvalues: {solver: fast}\n")
    assert NSEHyperParams.from_hparams(file).solver == "fast"
    file.write_text("layers: [1]\nalpha: 2\nvalues: {solvr: fast}\n")
    with pytest.raises(HyperParamsError, match="'solvr'.*solver"):
        NSEHyperParams.from_hparams(file)
    file.write_text("layers: [1]\nalpha: 2\nsolver: exact\nvalues: {solver: fast}\n")
    with pytest.raises(HyperParamsError, match="solver.*one of them"):
        NSEHyperParams.from_hparams(file)


def test_scientific_notation_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-1 and 5e2 as strings."""
    path = tmp_path / "some.yaml"
    path.write_text("layers: [1]\nalpha: 5e0\nv_lr: 1e-1\nmom2_update_weight: 1e4\nupper_bound: 5e2\n")
    hparams = NSEHyperParams.from_hparams(tmp_path / "some")
    assert (hparams.alpha, hparams.v_lr, hparams.mom2_update_weight, hparams.upper_bound) == (5.0, 0.1, 10000.0, 500.0)


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


def test_to_dict_can_be_written_and_read_again(tmp_path):
    hparams = NSEHyperParams(layers=[1, 2], alpha=3, p=0.5, rewind=False, upper_bound=9, stats_dir=tmp_path)
    path = tmp_path / "written.json"
    path.write_text(json.dumps(hparams.to_dict()))
    assert NSEHyperParams.from_hparams(path) == hparams
    hparams.to_dict()["layers"].append(3)
    assert hparams.layers == [1, 2]


# -- EasyEdit's habits -------------------------------------------------------------------------------------------


def test_what_easyedit_reads_is_there():
    for name in ("alg_name", "model_name", "device", "batch_size", "max_length", "model_parallel", "fp16",
                 "evaluation_type", "api_key", "use_chat_template"):  # fmt: skip
        assert hasattr(NSEHyperParams(layers=[1], alpha=1), name)


def test_easyedit_may_assign(llama, tokenizer):
    hparams = NSEHyperParams.from_hparams("llama3-8b")
    hparams.batch_size = 1
    hparams.device = "0"
    hparams.model_name = (llama, tokenizer)
    hparams.check()
    assert hparams.to_dict()["model_name"][0] is llama  # not a copy of the model


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


# -- for_model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("openai-community/gpt2-xl", "gpt2-xl"),
        ("./hugging_cache/gpt-j-6B", "gpt-j-6B"),
        ("EleutherAI/gpt-j-6b", "gpt-j-6B"),
        ("EleutherAI_gpt-j-6B", "gpt-j-6B"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b"),
        ("meta-llama/Llama-3.1-8B", "llama3-8b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
    ],
)
def test_models_are_known_by_name(name, preset):
    hparams = NSEHyperParams.for_model(name)
    expected = {**NSEHyperParams.from_hparams(preset).to_dict(), "model_name": name}
    assert hparams.to_dict() == expected


@pytest.mark.parametrize("cls", TUNED_FOR)
def test_models_are_known_by_shape(cls):
    model_type, layers, hidden, vocabulary = cls.shape
    config = SimpleNamespace(model_type=model_type, num_hidden_layers=layers, hidden_size=hidden, vocab_size=vocabulary)
    assert type(NSEHyperParams.for_model(SimpleNamespace(config=config))) is cls


def test_overrides_go_on_top():
    hparams = NSEHyperParams.for_model("llama3-8b", neuron_threshold=0.7, max_iterations=5)
    assert (hparams.p, hparams.max_iterations, hparams.alpha) == (0.7, 5, 2.5)


def test_a_model_nobody_tuned_needs_layers_and_alpha():
    model = tiny_model("llama")
    with pytest.raises(HyperParamsError, match=r"LlamaForCausalLM.*layers.*alpha.*`nse tune`"):
        NSEHyperParams.for_model(model, layers=[1])
    assert NSEHyperParams.for_model(model, layers=[1], alpha=2).layers == [1]
    with pytest.raises(HyperParamsError, match="did you mean 'layers'"):
        NSEHyperParams.for_model(model, layer=[1], alpha=2)


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", []), ("layers", [2, 1]), ("layers", [1, 1]), ("layers", [-1]), ("layers", [1.5]), ("layers", 3),
        ("layers", "1,2"), ("layers", None), ("p", 0), ("p", -0.1), ("p", 1.01), ("p", "most"), ("p", True),
        ("alpha", 0), ("alpha", -1), ("alpha", float("nan")), ("alpha", float("inf")), ("alpha", None),
        ("mom2_update_weight", 0), ("mom2_update_weight", -5), ("v_lr", 0), ("clamp_norm_factor", 0),
        ("v_weight_decay", -1), ("kl_factor", -1), ("max_iterations", 0), ("max_iterations", 2.5),
        ("v_num_grad_steps", 0), ("batch_size", 0), ("mom2_n_samples", 0), ("tokens_per_batch", 0),
        ("seed", "x"), ("seed", -1),
        ("preset", "papers"), ("rewind", "yes"), ("accumulate", 1), ("fact_token", "last"), ("upper_bound", 0),
        ("solver", "quick"),
        ("rewrite_module_tmp", "model.layers.5"), ("rewrite_module_tmp", 5), ("mom2_dtype", "bfloat16"),
        ("mom2_dataset", ""), ("mom2_dataset", None), ("stats_dir", 5), ("alg_name", "MEMIT"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_used(field, value):
    good = NSEHyperParams(layers=[1, 2], alpha=3.0)
    with pytest.raises(HyperParamsError) as built:
        dataclasses.replace(good, **{field: value})
    assert str(built.value).startswith(f"{field} = ")
    assert " cannot be used: " in str(built.value)
    setattr(good, field, value)  # as EasyEdit does
    with pytest.raises(HyperParamsError, match=f"^{field} = "):
        good.check()


@pytest.mark.parametrize(
    ("given", "meant"), [("1,2", [1, 2]), ("[4, 5, 6]", [4, 5, 6]), (3, [3]), ("some", [1, 2]), (None, [1, 2])]
)
def test_layers_that_are_no_list_are_shown_as_one(given, meant):
    with pytest.raises(HyperParamsError) as caught:
        NSEHyperParams(layers=given, alpha=1)
    assert str(caught.value) == f"layers = {given!r} cannot be used: give a list of numbers, {meant}."


def test_preset_released_makes_one_pass_fewer():
    hparams = Llama3NSEHyperParams()
    assert hparams.passes == 3
    assert dataclasses.replace(hparams, preset="released").passes == 2
    with pytest.raises(HyperParamsError, match="max_iterations = 1"):
        dataclasses.replace(hparams, preset="released", max_iterations=1)


def test_upper_bound_holds_alpha_back_in_preset_released_only() -> None:
    """In preset paper it plays no part, and a sweep of alpha may pass it."""
    assert NSEHyperParams.for_model("llama3-8b", alpha=60).upper_bound == 50
    with pytest.raises(HyperParamsError, match=r"upper_bound = 50.*above alpha = 60"):
        NSEHyperParams.for_model("llama3-8b", alpha=60, preset="released")
