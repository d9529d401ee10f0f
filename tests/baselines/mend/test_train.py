"""Training MEND's network with EasyEdit's trainer."""

from __future__ import annotations

import importlib

import torch
from mend_cases import FACTS, MATRICES

from nse_plugin.baselines.mend import train_mend


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
