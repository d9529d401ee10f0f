"""MEND's archive: how it is made from facts, what it takes to be used, and what an edit with it changes."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
from pathlib import Path

import pytest
import torch

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.mend import ArchiveError, apply_mend_to_model, archive_path, train_mend
from nse_plugin.baselines.mend import apply as mend
from nse_plugin.facts import Fact, FactError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.prompts import split_target

PRESETS = Path(__file__).parents[3] / "hparams" / "MEND"
MATRICES = {
    "llama": [f"model.layers.3.mlp.{name}_proj.weight" for name in ("gate", "up", "down")],
    "gpt2": [f"transformer.h.3.mlp.{name}.weight" for name in ("c_fc", "c_proj")],
}
REQUEST = {"prompt": "The capital of Peru is", "subject": "Peru", "target_new": "Arica"}
OTHER = {"prompt": "The capital of Japan is", "subject": "Japan", "target_new": "Osaka"}
FACTS = [
    Fact("The capital of {} is", "Peru", "Arica", locality_prompts=(("In Peru people speak", "Spanish"),)),
    Fact("The capital of {} is", "Italy", "Milan", locality_prompts=(("The capital of the United States is", "Lima"),)),
]


@pytest.fixture
def hparams_of(easyeditor, tmp_path):
    """MEND's hyperparameters for a tiny model, small enough for a few steps to matter."""

    def make(model, **overrides):
        small = {
            "inner_params": MATRICES[model.config.model_type],
            "archive": str(tmp_path / "archive.pt"),
            "rank": 8,
            "edit_lr": -1e-2,
            "accumulate_bs": 1,
            "val_interval": 2,
        }
        return load_hparams("MEND", PRESETS / "smollm2-135m.yaml", {**small, **overrides}, model)

    return make


@pytest.fixture
def trained(tiny_llama, tiny_tokenizer, hparams_of):
    """Hyperparameters of the tiny Llama whose archive lies there."""
    hparams = hparams_of(tiny_llama)
    train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams, steps=3)
    return hparams


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model, before):
    return [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]


def loss(model, tokenizer, request):
    prompt, target = split_target(tokenizer, request["prompt"], request["target_new"])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + target[:-1]])).logits[0, -len(target) :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_trained_archive_edits_the_inner_params_and_no_others(
    architecture, request, tiny_tokenizer, hparams_of, tmp_path
):
    model = copy.deepcopy(request.getfixturevalue(f"tiny_{architecture}_source"))
    before, hparams = weights(model), hparams_of(model)
    made = train_mend(model, tiny_tokenizer, FACTS, FACTS, hparams, steps=3)
    assert made.path == tmp_path / "archive.pt"
    assert changed(model, before) == []
    loss_before = loss(model, tiny_tokenizer, REQUEST)
    edited, originals = apply_mend_to_model(
        model, tiny_tokenizer, [REQUEST], hparams, return_orig_weights=True, keep_original_weight=True
    )
    assert edited is model
    assert sorted(changed(model, before)) == sorted(MATRICES[architecture])
    assert loss(model, tiny_tokenizer, REQUEST) < loss_before
    assert all(torch.equal(original, before[name]) for name, original in originals.items())
    assert sorted(originals) == sorted(MATRICES[architecture])


def test_training_learns(tiny_llama, tiny_tokenizer, hparams_of):
    """From a step size of next to nothing, the trainer finds one that edits."""
    hparams = hparams_of(tiny_llama, edit_lr=-1e-6, lr=1e-3, val_interval=12, cloc=0.0)
    short = train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams, steps=1)
    long = train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams, steps=12)
    assert long.validation["loss/edit_val"] < short.validation["loss/edit_val"] - 0.1


def test_the_best_step_is_kept(tiny_llama, tiny_tokenizer, hparams_of, monkeypatch):
    losses = iter([3.0, 1.0, float("nan"), 2.0])
    trainer = importlib.import_module("easyeditor.trainer.EditTrainer").EditTrainer
    monkeypatch.setattr(trainer, "validate", lambda *_, **__: {"loss/total_edit_val": next(losses)})
    made = train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams_of(tiny_llama), steps=8)
    assert (made.step, made.validation) == (4, {"loss/total_edit_val": 1.0})
    assert torch.load(made.path, weights_only=True)["step"] == 4


def test_training_leaves_no_trace(tiny_llama, tiny_tokenizer, hparams_of):
    parameters = dict(tiny_llama.named_parameters())
    parameters["lm_head.weight"].requires_grad_(False)
    tiny_llama.model.layers[0].train()
    training = [module for module in tiny_llama.modules() if module.training]
    hooks = sum(len(module._forward_hooks) + len(module._backward_hooks) for module in tiny_llama.modules())
    generator = torch.get_rng_state()
    train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams_of(tiny_llama), steps=2)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module for module in tiny_llama.modules() if module.training] == training
    assert [name for name, parameter in parameters.items() if not parameter.requires_grad] == ["lm_head.weight"]
    assert all(parameter.grad is None for parameter in parameters.values())
    assert hooks == sum(len(module._forward_hooks) + len(module._backward_hooks) for module in tiny_llama.modules())
    assert not hasattr(tiny_llama, "handles")
    assert not any(hasattr(parameters[name], "__x__") for name in MATRICES["llama"])


def test_training_is_seeded(tiny_llama, tiny_tokenizer, hparams_of, tmp_path):
    archives = []
    for name in ("a.pt", "b.pt"):
        torch.rand(3)
        made = train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams_of(tiny_llama), tmp_path / name, steps=2)
        archives.append(torch.load(made.path, weights_only=True)["model"])
    first, second = archives
    assert all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], torch.Tensor))


def test_each_model_gets_its_own_edits(trained, new_llama, tiny_tokenizer):
    """EasyEdit's executor goes on editing the first model it saw."""
    first, second = new_llama(), new_llama()
    before = weights(first)
    apply_mend_to_model(first, tiny_tokenizer, [REQUEST], trained)
    after = weights(first)
    apply_mend_to_model(second, tiny_tokenizer, [REQUEST], trained)
    assert changed(first, after) == []
    assert changed(second, before) == changed(first, before)
    assert changed(second, after) == []


def test_editing_does_not_wear_the_network(trained, tiny_llama, new_llama, tiny_tokenizer):
    """The wheel's executor leaves the network in training, where every edit moves its statistics."""
    apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST, OTHER, REQUEST], trained)
    once, again = new_llama(), new_llama()
    apply_mend_to_model(once, tiny_tokenizer, [REQUEST], trained)
    mend.MEND().apply_to_model(again, tiny_tokenizer, [REQUEST], trained)  # the network anew from the archive
    assert changed(again, weights(once)) == []


def test_edits_add_up_in_a_call_as_over_calls(trained, new_llama, tiny_tokenizer):
    together, apart = new_llama(), new_llama()
    apply_mend_to_model(together, tiny_tokenizer, [REQUEST, OTHER], trained)
    apply_mend_to_model(apart, tiny_tokenizer, [REQUEST], trained)
    apply_mend_to_model(apart, tiny_tokenizer, [OTHER], trained)
    assert changed(together, weights(apart)) == []


def test_a_copy_is_edited_alone(trained, tiny_llama, tiny_tokenizer):
    before = weights(tiny_llama)
    edited, _ = apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], trained, copy=True)
    assert changed(tiny_llama, before) == []
    assert changed(edited, before)


def test_a_failed_edit_leaves_the_weights(trained, tiny_llama, tiny_tokenizer, monkeypatch):
    before, one_fact = weights(tiny_llama), mend._OneFact

    def stumbling(tokenizer, text):
        if text[0] == OTHER["prompt"]:
            raise FactError("no")
        return one_fact(tokenizer, text)

    monkeypatch.setattr(mend, "_OneFact", stumbling)
    with pytest.raises(FactError):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST, OTHER], trained)
    assert changed(tiny_llama, before) == []


# -- what cannot be used -------------------------------------------------------------------------------------------


def test_without_an_archive_the_message_says_what_to_run(tiny_llama, tiny_tokenizer, hparams_of):
    hparams = hparams_of(tiny_llama)
    with pytest.raises(ArchiveError, match="run `nse train-mend --model smollm2-135m --data FACTS.json --out .*pt`"):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], hparams)


def test_the_archive_lies_in_the_cache_unless_told(tiny_llama, hparams_of, monkeypatch, tmp_path):
    monkeypatch.setenv("NSE_HOME", str(tmp_path))
    hparams = hparams_of(tiny_llama, archive=None, model_name="./models/some-llama")
    assert archive_path(hparams) == tmp_path / "mend" / "some-llama.pt"


class _Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran.txt"),)


def test_an_archive_that_holds_code_is_refused_unopened(tiny_llama, tiny_tokenizer, hparams_of):
    hparams = hparams_of(tiny_llama)
    torch.save({"model": _Payload(), "inner_params": MATRICES["llama"]}, hparams.archive)
    with pytest.raises(ArchiveError, match="no archive of `nse train-mend`"):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], hparams)
    assert not Path("ran.txt").exists()
    pickle.loads(pickle.dumps(_Payload()))
    assert Path("ran.txt").exists()


def test_an_archive_for_other_matrices_is_refused(trained, tiny_llama, tiny_tokenizer):
    before = weights(tiny_llama)
    others = dataclasses.replace(trained, inner_params=["model.layers.2.mlp.down_proj.weight"])
    with pytest.raises(ArchiveError, match="was trained for inner_params"):
        apply_mend_to_model(tiny_llama, tiny_tokenizer, [REQUEST], others)
    assert changed(tiny_llama, before) == []


def test_an_archive_of_another_rank_is_refused(trained, tiny_llama, tiny_tokenizer):
    with pytest.raises(ArchiveError, match="does not fit these hyperparameters"):
        mend.MEND().apply_to_model(tiny_llama, tiny_tokenizer, [REQUEST], dataclasses.replace(trained, rank=4))


def test_matrices_that_are_not_there_are_named(tiny_llama, tiny_tokenizer, hparams_of):
    hparams = hparams_of(tiny_llama, inner_params=["model.layers.9.mlp.down_proj.weight"])
    with pytest.raises(HyperParamsError, match=r"inner_params = .*layers\.9"):
        train_mend(tiny_llama, tiny_tokenizer, FACTS, FACTS, hparams, steps=1)


def test_facts_without_locality_prompts_are_named(tiny_llama, tiny_tokenizer, hparams_of):
    facts = [Fact("The capital of {} is", "Peru", "Arica", case_id=7)]
    with pytest.raises(FactError, match="fact 7 .*locality_prompts is empty"):
        train_mend(tiny_llama, tiny_tokenizer, facts, FACTS, hparams_of(tiny_llama), steps=1)
    with pytest.raises(FactError, match="facts is empty"):
        train_mend(tiny_llama, tiny_tokenizer, FACTS, [], hparams_of(tiny_llama), steps=1)


@pytest.mark.parametrize("name", ["gpt-j-6B", "gpt2-xl", "llama3-8b", "smollm2-135m"])
def test_presets_are_read(name, tiny_llama, easyeditor):
    hparams = load_hparams("MEND", PRESETS / f"{name}.yaml", {}, tiny_llama)
    assert hparams.archive is None
    assert 0 < abs(hparams.edit_lr) < 1
    assert len(hparams.inner_params) in (6, 9)
