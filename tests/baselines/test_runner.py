"""EasyEdit's algorithms as a comparison runs them: round after round, each alone, and from a saved state on."""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml

from nse_plugin import Fact, NSEHyperParams
from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.registry import available_algorithms, is_available
from nse_plugin.baselines.runner import Method, MethodError
from nse_plugin.easyedit import wheel
from nse_plugin.easyedit.algorithm import nse
from nse_plugin.facts import FactError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.hparams.files import preset_path
from nse_plugin.store import StoreError

FAMILIES = {"llama": ("model.layers.{}", "mlp.down_proj", "self_attn", "model.norm", "lm_head"),
            "gpt2": ("transformer.h.{}", "mlp.c_proj", "attn", "transformer.ln_f", "transformer.wte")}  # fmt: skip
FACTS = [
    Fact("The capital of {} is", "France", "Lyon", case_id=7),
    Fact("In {} people speak", "Peru", "Spanish"),
    Fact("The capital of {} is", "the United States", "Boston"),
    Fact("The capital of {} is", "Japan", "Osaka"),
]
VALUE = {"fact_token": "subject_last", "v_num_grad_steps": 3, "v_lr": "1e-1", "v_loss_layer": 3, "v_weight_decay": 0.5,
         "clamp_norm_factor": 0.75, "kl_factor": 0.0625, "mom2_adjustment": True, "mom2_dataset": "self",
         "mom2_n_samples": 8, "mom2_dtype": "float32"}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "FT": {"layers": [2], "num_steps": 3, "lr": "1e-3", "weight_decay": 0, "kl_factor": 0, "norm_constraint": "5e-4",
           "objective_optimization": "prompt_last", "batch_size": 2},
    "ROME": {**VALUE, "layers": [1], "context_template_length_params": [[5, 5]], "fp16": False},
    "MEMIT": {**VALUE, "layers": [1, 2], "layer_selection": "all", "mom2_update_weight": 0.001},
    "NSE": {**{name: VALUE[name] for name in ("v_lr", "v_num_grad_steps", "mom2_dataset", "mom2_n_samples")},
            "layers": [1, 2], "alpha": 0.01, "p": 0.9, "mom2_update_weight": 0.001},
}  # fmt: skip
EDITED = {"FT": (2,), "ROME": (1,), "MEMIT": (1, 2), "NSE": (1, 2)}

pytestmark = pytest.mark.usefixtures("easyeditor")


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings_file(tmp_path: Path, stats_dir: Path) -> Callable[..., Path]:
    def write(family: str, alg_name: str, /, **changes: Any) -> Path:
        layer, mlp, attention, norm, head = FAMILIES[family]
        config = {
            "alg_name": alg_name, "model_name": "tiny", "device": 0, "stats_dir": str(stats_dir / family),
            "rewrite_module_tmp": f"{layer}.{mlp}", "layer_module_tmp": layer, "mlp_module_tmp": f"{layer}.mlp",
            "attn_module_tmp": f"{layer}.{attention}", "ln_f_module": norm, "lm_head_module": head,
            **SETTINGS[alg_name], **changes,
        }  # fmt: skip
        if alg_name == "FT":
            del config["stats_dir"]
        path = tmp_path / f"{alg_name}.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in config.items() if value != "absent"}))
        return path

    return write


@pytest.fixture
def method_on(family: str, tiny_tokenizer: Any, settings_file: Callable[..., Path]) -> Callable[..., Method]:
    def make(model: Any, alg_name: str, **changes: Any) -> Method:
        hparams = load_hparams(alg_name, settings_file(family, alg_name), changes, model)
        return Method(model, tiny_tokenizer, alg_name, hparams)

    return make


@pytest.mark.parametrize("alg_name", sorted(SETTINGS))
def test_a_round_changes_the_method_s_own_matrices_only(
    alg_name: str, family: str, new_model: Callable[[], Any], method_on: Callable[..., Method]
) -> None:
    model, before = new_model(), dict(new_model().named_parameters())
    method = method_on(model, alg_name)
    frame = method.edit(FACTS[:2])
    assert frame.columns.tolist() == ["case_id", "status", "residual"]
    assert frame["case_id"].tolist() == [7, 1]
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    layer, mlp, *_ = FAMILIES[family]
    own = {f"{layer.format(number)}.{mlp}.weight" for number in EDITED[alg_name]}
    assert own <= changed
    assert changed <= own | {name.replace(".weight", ".bias") for name in own if alg_name == "FT"}
    state = method.state()
    assert state is not None
    assert {name for name in state if name.startswith("weights.")} == {f"weights.{name}" for name in changed}
    if alg_name == "NSE":
        assert frame["residual"].notna().all()
    else:
        assert frame["status"].tolist() == ["done", "done"]
        assert frame["residual"].isna().all()


@pytest.mark.parametrize("family", ["llama"])
def test_nse_is_given_the_whole_fact(new_model: Callable[[], Any], method_on: Callable[..., Method]) -> None:
    fact = Fact("Where is {}?", "Rome", "Peru", separator="\n", aliases=("Roma",), case_id=3)
    method = method_on(new_model(), "NSE")
    assert method.edit([fact])["case_id"].tolist() == [3]
    [written] = nse.state_of(method.model).history.written
    assert (written.text, written.target_new) == (fact.text, fact.target_new)
    assert (written.separator, written.aliases) == (fact.separator, fact.aliases)


@pytest.mark.parametrize("alg_name", sorted(SETTINGS))
def test_going_on_from_a_state_is_never_having_stopped(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., Method]
) -> None:
    whole = new_model()
    method = method_on(whole, alg_name)
    first, then = FACTS[:2], [*FACTS[2:], dataclasses.replace(FACTS[0], prompt="{} stands in", case_id=30)]
    method.edit(first)
    state = method.state()
    assert state is not None
    saved = {name: tensor.clone() for name, tensor in state.items()}
    last = method.edit(then)

    torch.rand(3)  # another process has other random numbers
    resumed = new_model()
    method = method_on(resumed, alg_name)
    method.resume(saved)
    assert last.equals(method.edit(then))
    for (name, weight), expected in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(weight, expected), name


@pytest.mark.parametrize("family", ["llama"])
def test_grace_goes_on_with_its_codebook(new_model: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "GRACE.yaml"
    path.write_text("{alg_name: GRACE, inner_params: ['model.layers[2].mlp.down_proj.weight'], n_iter: 5}")

    def method_on(model: Any) -> Method:
        return Method(model, tiny_tokenizer, "GRACE", load_hparams("GRACE", path, {}, model))

    whole, resumed = new_model(), new_model()
    method = method_on(whole)
    method.edit(FACTS[:2])
    state = method.state()
    assert state is not None
    assert not any(name.startswith("weights.") for name in state)
    method.edit(FACTS[2:])
    going_on = method_on(resumed)
    going_on.resume(state)
    going_on.edit(FACTS[2:])
    expected, found = method.state(), going_on.state()
    assert expected is not None
    assert found is not None
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    ids = tiny_tokenizer(FACTS[0].text, return_tensors="pt")["input_ids"]
    assert torch.equal(resumed(ids).logits, whole(ids).logits)


@pytest.mark.parametrize("family", ["llama"])
def test_grace_keeps_facts_whose_prompts_differ_in_length(
    new_model: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    path = tmp_path / "GRACE.yaml"
    path.write_text("{alg_name: GRACE, inner_params: ['model.layers[2].mlp.down_proj.weight'], eps: 1.0e-3}")
    model = new_model()
    method = Method(model, tiny_tokenizer, "GRACE", load_hparams("GRACE", path, {}, model))
    ids = tiny_tokenizer(FACTS[0].text, return_tensors="pt")["input_ids"]
    method.edit(FACTS[:1])
    written = model(ids).logits
    assert not torch.allclose(written, new_model()(ids).logits)
    method.edit(FACTS[1:])
    assert torch.equal(model(ids).logits, written)


@pytest.mark.parametrize("alg_name", sorted(SETTINGS))
def test_everything_else_is_as_before(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., Method], tiny_tokenizer: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = new_model().train()
    next(model.parameters()).requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    tokenizer = (tiny_tokenizer.padding_side, tiny_tokenizer.pad_token, tiny_tokenizer.unk_token)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)

    method_on(model, alg_name).edit(FACTS[:2])

    assert (random.random(), np.random.random(), torch.rand(1).item()) == drawn
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert (tiny_tokenizer.padding_side, tiny_tokenizer.pad_token, tiny_tokenizer.unk_token) == tokenizer
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("alg_name", ["ROME", "MEMIT"])
def test_one_method_s_memories_are_not_another_s(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., Method]
) -> None:
    alone, after_another = new_model(), new_model()
    method_on(alone, alg_name).edit(FACTS[:1])
    other = new_model()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    other.config._name_or_path = after_another.config._name_or_path
    method_on(other, alg_name).edit(FACTS[:1])
    method_on(after_another, alg_name).edit(FACTS[:1])
    for weight, expected in zip(after_another.parameters(), alone.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_every_method_makes_its_fact_likelier(family: str, settings_file: Callable[..., Path]) -> None:
    fact, tokenizer = Fact("Rome is in {}", "France", "Lyon"), tiny.tiny_tokenizer()
    prompt, target = (tokenizer(text, return_tensors="pt")["input_ids"] for text in (fact.text, " Lyon"))
    tuned = {"norm_constraint": False, "num_steps": 20, "lr": 0.01}
    far = {"v_num_grad_steps": 20, "v_lr": 0.5, "v_weight_decay": 0.0, "clamp_norm_factor": 4.0}
    for alg_name in SETTINGS:
        model = tiny.tiny_model(family, torch.float32)  # its weights are large enough for a value to matter
        before = _likelihood(model, prompt, target)
        changes = tuned if alg_name == "FT" else far
        hparams = load_hparams(alg_name, settings_file(family, alg_name), changes, model)
        Method(model, tokenizer, alg_name, hparams).edit([fact])
        assert _likelihood(model, prompt, target) > before + 0.1, alg_name


def _likelihood(model: Any, prompt: torch.Tensor, target: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(torch.cat([prompt, target], dim=1)).logits[0, prompt.shape[1] - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, target[0, :, None]).mean())


@pytest.mark.parametrize("family", ["llama"])
def test_times_of_the_parts(new_model: Callable[[], Any], method_on: Callable[..., Method]) -> None:
    for alg_name, parts in {
        "FT": set(),
        "MEMIT": {"values", "update", "moments"},
        "NSE": {"values", "update", "moments"},
    }.items():
        method = method_on(new_model(), alg_name)
        method.edit(FACTS[:2])
        once = dict(method.seconds)
        assert once.keys() == {"edit", *parts}
        assert all(taken > 0 for taken in once.values())
        assert sum(once[part] for part in parts) <= once["edit"] * 1.001
        method.edit(FACTS[2:])
        assert method.seconds["edit"] > once["edit"]


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize(("alg_name", "sizes"), [("FT", [2]), ("ROME", [1, 1])])
def test_rounds_go_in_one_call_where_easyedit_says_so(
    alg_name: str,
    sizes: list[int],
    new_model: Callable[[], Any],
    method_on: Callable[..., Method],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, seen = method_on(new_model(), alg_name), []

    def record(model: Any, tok: Any, requests: Any, *_: Any, **__: Any) -> Any:
        seen.append(len(requests))
        assert tok.padding_side == "right"
        assert all(request["subject"] in request["prompt"] for request in requests) == (alg_name == "FT")
        return model, {}

    monkeypatch.setattr(method, "_apply", record)
    method.edit(FACTS[:2])
    assert seen == sizes


@pytest.mark.parametrize("family", ["llama"])
def test_a_failure_names_the_method_and_the_fact(
    new_model: Callable[[], Any], method_on: Callable[..., Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    method = method_on(model, "MEMIT")

    def fail(*_: Any, **__: Any) -> None:
        model.requires_grad_(False)
        raise IndexError("too many indices")

    monkeypatch.setattr(importlib.import_module("easyeditor.models.memit.memit_main"), "compute_ks", fail)
    with pytest.raises(MethodError, match=r"MEMIT failed on 'The capital of \{\} is' and 1 more: IndexError: too many"):
        method.edit(FACTS[:2])
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    with pytest.raises(FactError, match="facts is empty"):
        method.edit([])


@pytest.mark.parametrize("family", ["llama"])
def test_a_failure_of_our_own_is_told_without_its_class(
    new_model: Callable[[], Any], method_on: Callable[..., Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_on(new_model(), "MEMIT")

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the store cannot be\nwritten to")

    monkeypatch.setattr(importlib.import_module("easyeditor.models.memit.memit_main"), "compute_ks", fail)
    with pytest.raises(MethodError) as told:
        method.edit(FACTS[:1])
    assert str(told.value) == "MEMIT failed on 'The capital of {} is': the store cannot be written to"


@pytest.mark.parametrize("family", ["llama"])
def test_what_a_state_does_not_fit(new_model: Callable[[], Any], method_on: Callable[..., Method]) -> None:
    model = new_model()
    method = method_on(model, "FT")
    method.edit(FACTS[:1])
    state = method.state()
    assert state is not None
    with pytest.raises(MethodError, match="load the model anew"):
        method.resume(state)
    with pytest.raises(MethodError, match="this model has not"):
        method_on(new_model(), "FT").resume({"weights.no.such.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("family", ["llama"])
def test_a_method_that_easyedit_has_not(new_model: Callable[[], Any], tiny_tokenizer: Any) -> None:
    with pytest.raises(MethodError, match="did you mean 'MEMIT'"):
        Method(new_model(), tiny_tokenizer, "MEMITT", None)
    assert is_available("NSE")
    assert not is_available("MEMITT")
    assert {"NSE", "FT", "ROME", "MEMIT", "GRACE", "MEND"} <= set(available_algorithms())


@pytest.mark.parametrize("family", ["llama"])
def test_files_are_read_for_the_model_at_hand(
    new_model: Callable[[], Any], settings_file: Callable[..., Path], easyeditor: Any
) -> None:
    hparams = load_hparams("FT", settings_file("llama", "FT"), {"num_steps": 9}, new_model())
    assert (hparams.device, hparams.model_name, hparams.num_steps) == ("cpu", "tiny", 9)
    assert (hparams.lr, hparams.norm_constraint) == (1e-3, 5e-4)  # YAML reads 1e-3 as a string
    assert isinstance(load_hparams("NSE", preset_path("NSE", "smollm2-135m"), {}, new_model()), NSEHyperParams)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stepz": 3}, "Unknown hyperparameter 'num_stepz': did you mean 'num_steps'"),
        ({"lr": "absent"}, "lr is missing"),
        ({"alg_name": "FTT"}, "alg_name is 'FTT'"),
    ],
)
@pytest.mark.parametrize("family", ["llama"])
def test_mistakes_in_a_file(
    changes: dict[str, Any], message: str, new_model: Callable[[], Any], settings_file: Callable[..., Path]
) -> None:
    with pytest.raises(HyperParamsError, match=message):
        load_hparams("FT", settings_file("llama", "FT", **changes), {}, new_model())


@pytest.mark.parametrize("family", ["llama"])
def test_what_the_wheel_cannot_do_is_said(
    new_model: Callable[[], Any], settings_file: Callable[..., Path], on_main: bool
) -> None:
    path = settings_file("llama", "FT", objective_optimization="target_new")
    if on_main:
        assert load_hparams("FT", path, {}, new_model()).objective_optimization == "target_new"
    else:
        with pytest.raises(HyperParamsError, match="objective_optimization = 'target_new' cannot be used"):
            load_hparams("FT", path, {}, new_model())


def test_no_such_file(tiny_llama: Any, tmp_path: Path) -> None:
    with pytest.raises(HyperParamsError, match="No hyperparameter file"):
        load_hparams("FT", tmp_path / "none.yaml", {}, tiny_llama)
    with pytest.raises(HyperParamsError, match="No presets for method 'FTL': did you mean 'FT-L'"):
        preset_path("FTL", "gpt2-xl")
    with pytest.raises(HyperParamsError, match="No ROME preset for model 'gpt2-xxl': did you mean 'gpt2-xl'"):
        preset_path("ROME", "gpt2-xxl")


@pytest.mark.parametrize("preset", ["ROME", "MEMIT", "FT-L", "FT-W", "NSE", "GRACE", "MEND"])
def test_presets_are_readable(preset: str, tiny_llama: Any) -> None:
    for model in ("gpt2-xl", "gpt-j-6B", "llama3-8b", "smollm2-135m"):
        alg_name = "FT" if preset.startswith("FT") else preset
        hparams = load_hparams(alg_name, preset_path(preset, model), {}, tiny_llama)
        assert hparams.alg_name == alg_name
        if alg_name == "FT":
            assert (preset == "FT-L") == isinstance(hparams.norm_constraint, float)
            assert (preset == "FT-W") == (hparams.weight_decay == 5e-4)


def test_trace_shows_decoder_layers_in_tuples(tiny_llama: Any, on_main: bool) -> None:
    if on_main:
        pytest.skip("a shim of the wheel")
    nethook = importlib.import_module("easyeditor.util.nethook")
    own, ids = nethook.Trace, torch.tensor([[1, 2, 3]])
    plain = tiny_llama(ids).logits
    with wheel.layers_in_tuples(tiny_llama.model.layers):
        layers = ["model.layers.1", "model.layers.2.mlp"]
        with nethook.TraceDict(tiny_llama, layers, edit_output=lambda output, layer: output) as seen:
            assert torch.equal(tiny_llama(ids).logits, plain)
        assert seen["model.layers.1"].output[0].shape == (1, 3, 32)
        assert seen["model.layers.2.mlp"].output.shape == (1, 3, 32)
        with nethook.Trace(tiny_llama, "model.layers.1", edit_output=lambda output: (output[0] + 1,)):
            assert not torch.equal(tiny_llama(ids).logits, plain)
    assert nethook.Trace is own
