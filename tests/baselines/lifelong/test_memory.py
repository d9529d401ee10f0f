"""AlphaEdit, WISE and UltraEdit from EasyEdit's main branch: their edits, and their memory between rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lifelong_cases import EDITED, FACTS, PRESETS, logits_of

from nse_plugin import Fact
from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.runner import EasyEditRunner
from nse_plugin.hparams.files import preset_path

SAVED = ["AlphaEdit", "ULTRAEDIT"]

pytestmark = pytest.mark.usefixtures("easyeditor")


@pytest.mark.parametrize("alg_name", SAVED)
def test_a_round_changes_the_method_s_own_matrices_only(
    alg_name: str, family: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
) -> None:
    model, before = new_model(), dict(new_model().named_parameters())
    frame = method_on(model, alg_name).edit(FACTS)
    assert frame["case_id"].tolist() == [7, 1, 2]
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {f"{name}.weight" for name in EDITED[alg_name, family]}
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert {path.name for path in Path.cwd().iterdir()} <= {
        "nse-home"
    }  # EasyEdit's AlphaEdit writes its projections there


@pytest.mark.parametrize("alg_name", SAVED)
def test_going_on_from_a_state_is_never_having_stopped(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner]
) -> None:
    whole, resumed, forgetful = new_model(), new_model(), new_model()
    method = method_on(whole, alg_name)
    method.edit(FACTS[:2])
    state = method.state()
    assert state is not None
    saved = {name: tensor.clone() for name, tensor in state.items()}
    method.edit(FACTS[2:])  # a shorter round, the last

    weights = {name: tensor for name, tensor in saved.items() if name.startswith("weights.")}
    for model, kept in ((resumed, saved), (forgetful, weights)):
        method = method_on(model, alg_name)
        method.resume(kept)
        method.edit(FACTS[2:])
    expected, found, other = (dict(model.named_parameters()) for model in (whole, resumed, forgetful))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not all(torch.equal(other[name], expected[name]) for name in expected)


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_one_method_s_memories_are_not_another_s(
    alg_name: str, new_model: Callable[[], Any], method_on: Callable[..., EasyEditRunner], tiny_tokenizer: Any
) -> None:
    alone, other, after_another = new_model(), new_model(), new_model()
    method_on(alone, alg_name).edit(FACTS[:2])
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    method_on(other, alg_name).edit(FACTS[:2])
    method_on(after_another, alg_name).edit(FACTS[:2])
    for fact in FACTS:
        assert torch.equal(
            logits_of(after_another, tiny_tokenizer, fact.text), logits_of(alone, tiny_tokenizer, fact.text)
        )


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_every_method_makes_its_fact_likelier(
    alg_name: str, family: str, method_on: Callable[..., EasyEditRunner]
) -> None:
    fact, tokenizer = Fact("Rome is in {}", "France", "Lyon"), tiny.tiny_tokenizer()
    model = tiny.tiny_model(family, torch.float32)  # its weights are large enough for an edit to matter
    changes: dict[str, Any] = {
        "AlphaEdit": {"v_num_grad_steps": 20, "v_weight_decay": 0.0, "clamp_norm_factor": 4.0, "L2": 1e-4},
        "WISE": {"n_iter": 40, "edit_lr": 1.0, "act_margin": [1e3, 0.0, -1e3]},  # the loss of the target alone
        "ULTRAEDIT": {"lr": 0.1},
    }[alg_name]
    before = _likelihood(model, tokenizer, fact)
    method_on(model, alg_name, tokenizer, **changes).edit([fact])
    assert _likelihood(model, tokenizer, fact) > before + 0.1


def _likelihood(model: Any, tokenizer: Any, fact: Fact) -> float:
    target = tokenizer(f" {fact.target_new}")["input_ids"]
    logits = logits_of(model, tokenizer, f"{fact.text} {fact.target_new}")[-len(target) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).mean())


@pytest.mark.parametrize("alg_name", sorted(PRESETS))
def test_presets_are_readable(alg_name: str, tiny_llama: Any, main_only: None) -> None:
    for model in ("gpt2-xl", "gpt-j-6B", "llama3-8b", "smollm2-135m"):
        hparams = load_hparams(alg_name, preset_path(PRESETS[alg_name], model), {}, tiny_llama)
        assert hparams.alg_name == alg_name
        if alg_name == "WISE":
            assert hparams.merge_freq % hparams.save_freq == 0
            assert hparams.alpha < hparams.gamma < hparams.beta
            assert isinstance(hparams.norm_constraint, float)
