"""Hyperparameters: published values, YAML and JSON files, EasyEdit's conventions, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
from preset_files import authors_file
from tiny import tiny_model

from nse_plugin.hparams import HyperParamsError, NSEHyperParams
from nse_plugin.hparams.tuned import Llama3NSEHyperParams


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


def test_to_dict_can_be_written_and_read_again(tmp_path):
    hparams = NSEHyperParams(layers=[1, 2], alpha=3, p=0.5, rewind=False, upper_bound=9, stats_dir=tmp_path)
    path = tmp_path / "written.json"
    path.write_text(json.dumps(hparams.to_dict()))
    assert NSEHyperParams.from_hparams(path) == hparams
    hparams.to_dict()["layers"].append(3)
    assert hparams.layers == [1, 2]


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


def test_overrides_go_on_top():
    hparams = NSEHyperParams.for_model("llama3-8b", neuron_threshold=0.7, max_iterations=5)
    assert (hparams.p, hparams.max_iterations, hparams.alpha) == (0.7, 5, 2.5)


def test_an_unknown_name_needs_layers_and_alpha():
    model = tiny_model("llama")
    with pytest.raises(HyperParamsError, match=r"'unknown'.*loaded model.*layers.*alpha.*`nse tune`"):
        NSEHyperParams.for_model("unknown", layers=[1])
    assert NSEHyperParams.for_model(model, layers=[1], alpha=2).layers == [1]
    with pytest.raises(HyperParamsError, match="did you mean 'layers'"):
        NSEHyperParams.for_model(model, layer=[1], alpha=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", []), ("layers", [2, 1]), ("layers", [1, 1]), ("layers", [-1]), ("layers", [1.5]), ("layers", 3),
        ("layers", "1,2"), ("layers", None), ("p", 0), ("p", -0.1), ("p", 1.01), ("p", "most"), ("p", True),
        ("alpha", 0), ("alpha", -1), ("alpha", float("nan")), ("alpha", float("inf")),
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


def test_no_lambda_needs_a_ridge(hparams):
    assert hparams.with_overrides(mom2_update_weight=0, ridge=10).mom2_update_weight == 0
    with pytest.raises(HyperParamsError, match=r"mom2_update_weight = 0\.0 .*: use a number above 0 \(0 with"):
        hparams.with_overrides(mom2_update_weight=0)


@pytest.mark.parametrize(
    ("name", "value"), [("subspace", "all"), ("z_stop", "never"), ("nullspace_threshold", 0), ("ridge", -1)]
)
def test_settings_of_the_solver_that_cannot_be_used(hparams, name, value):
    with pytest.raises(HyperParamsError, match=f"{name} = .* cannot be used: use "):
        hparams.with_overrides(**{name: value})
