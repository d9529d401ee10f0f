"""EasyEdit's algorithms as a comparison runs them: round after round, each on its own, and from a saved state."""

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
from method_files import FAMILIES, SETTINGS

from nse_plugin import Fact
from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner, MethodError
from nse_plugin.facts import FactError
from nse_plugin.store import StoreError

FACTS = [
    Fact("The capital of {} is", "France", "Lyon", case_id=7),
    Fact("In {} people speak", "Peru", "Spanish"),
    Fact("The capital of {} is", "the United States", "Boston"),
    Fact("The capital of {} is", "Japan", "Osaka"),
]
EDITED = {"FT": (2,), "ROME": (1,), "MEMIT": (1, 2), "NSE": (1, 2)}


@pytest.mark.parametrize("alg_name", sorted(SETTINGS))
def test_a_round_changes_the_method_s_own_matrices_only(
    alg_name: str, family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
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


@pytest.mark.parametrize("alg_name", sorted(SETTINGS))
def test_going_on_from_a_state_is_never_having_stopped(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
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
def test_nse_goes_on_with_the_master_copies_of_a_bfloat16_model(
    new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
) -> None:
    whole, resumed = new_model().bfloat16(), new_model().bfloat16()
    method = method_on(whole, "NSE")
    method.edit(FACTS[:2])
    state = method.state()
    assert state is not None
    assert {name for name in state if name.startswith("nse.masters.")} == {"nse.masters.1", "nse.masters.2"}
    method.edit(FACTS[2:])
    method = method_on(resumed, "NSE")
    method.resume(state)
    method.edit(FACTS[2:])
    for (name, weight), expected in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(weight, expected), name


@pytest.mark.parametrize("family", ["llama"])
def test_grace_goes_on_with_its_codebook(new_model: Callable[[], Any], tiny_tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "GRACE.yaml"
    path.write_text("{alg_name: GRACE, inner_params: ['model.layers[2].mlp.down_proj.weight'], n_iter: 5}")

    def method_on(model: Any) -> EasyEditRunner:
        return EasyEditRunner(model, tiny_tokenizer, "GRACE", load_hparams("GRACE", path, {}, model))

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
    method = EasyEditRunner(model, tiny_tokenizer, "GRACE", load_hparams("GRACE", path, {}, model))
    ids = tiny_tokenizer(FACTS[0].text, return_tensors="pt")["input_ids"]
    method.edit(FACTS[:1])
    written = model(ids).logits
    assert not torch.allclose(written, new_model()(ids).logits)
    method.edit(FACTS[1:])
    assert torch.equal(model(ids).logits, written)


@pytest.mark.parametrize("alg_name", sorted(SETTINGS))
def test_everything_else_is_as_before(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any,
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
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
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
        EasyEditRunner(model, tokenizer, alg_name, hparams).edit([fact])
        assert _likelihood(model, prompt, target) > before + 0.1, alg_name


def _likelihood(model: Any, prompt: torch.Tensor, target: torch.Tensor) -> float:
    with torch.no_grad():
        logits = model(torch.cat([prompt, target], dim=1)).logits[0, prompt.shape[1] - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, target[0, :, None]).mean())


@pytest.mark.parametrize("family", ["llama"])
def test_times_of_the_parts(new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]) -> None:
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
    method_on: Callable[..., EasyEditRunner],
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
    new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], monkeypatch: pytest.MonkeyPatch
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
    new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = method_on(new_model(), "MEMIT")

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the store cannot be\nwritten to")

    monkeypatch.setattr(importlib.import_module("easyeditor.models.memit.memit_main"), "compute_ks", fail)
    with pytest.raises(MethodError) as told:
        method.edit(FACTS[:1])
    assert str(told.value) == "MEMIT failed on 'The capital of {} is': the store cannot be written to"


@pytest.mark.parametrize("family", ["llama"])
def test_what_a_state_does_not_fit(new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]) -> None:
    model = new_model()
    method = method_on(model, "FT")
    method.edit(FACTS[:1])
    state = method.state()
    assert state is not None
    with pytest.raises(MethodError, match="load the model anew"):
        method.resume(state)
    with pytest.raises(MethodError, match="this model has not"):
        method_on(new_model(), "FT").resume({"weights.no.such.weight": torch.zeros(2, 2)})
