"""Train MEND's editor network with EasyEdit's trainer, for any causal language model."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from nse_plugin.baselines.hparams import load_hparams
from nse_plugin.baselines.mend.archive import archive_path
from nse_plugin.baselines.mend.data import Examples
from nse_plugin.baselines.mend.scope import at_work, device_named, settings_for
from nse_plugin.easyedit.locate import import_easyedit
from nse_plugin.facts import Fact
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.inputs import input_device
from nse_plugin.support.files import written_whole
from nse_plugin.support.progress import bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedArchive:
    """Result of `train_mend`: the archive's path, the training step it is from, and that step's mean metrics over the
    validation facts."""

    path: Path
    step: int
    validation: dict[str, float]


def train_mend(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train_facts: Sequence[Fact],
    val_facts: Sequence[Fact],
    hparams: Any,
    out: Path | None = None,
    steps: int | None = None,
) -> TrainedArchive:
    """Train MEND's network for a loaded model with EasyEdit's trainer, and write the archive of the best step.

    The archive is written at every validation that is the best so far, so it is kept if training is interrupted.

    train_facts, val_facts: facts with locality prompts; a step uses one fact and one of its locality prompts, in random
    order. hparams: EasyEdit's MENDHyperParams, or the path of a YAML file for it. `early_stop_key` defines "best". out:
    None: `archive_path(hparams)`. steps: None: `max_iters`.
    The model is unchanged afterwards.

    Raises FactError if there are no facts, or one has no locality prompts; HyperParamsError if the model does not have
    the `inner_params`, or there are no steps; ArithmeticError, with nothing written, if no validation is finite.
    """
    import_easyedit()
    if isinstance(hparams, str | Path):
        hparams = load_hparams("MEND", hparams, {}, model)
    steps = int(hparams.max_iters) if steps is None else steps
    if steps < 1:
        raise HyperParamsError(f"max_iters = {steps} cannot be used: train for at least one step.")
    out = archive_path(hparams) if out is None else out
    device = input_device(model)
    training = Examples(tokenizer, train_facts, device, steps)
    validation = Examples(tokenizer, val_facts, device, len(val_facts))
    settings = _training_settings(hparams, model, steps)
    best: list[TrainedArchive] = []

    def keep(stats: Mapping[str, float]) -> None:
        """Write the archive if the network is the best so far. Replaces the trainer's own saving, which pickles."""
        step = min(trainer.global_iter, steps)
        log.info("MEND: step %d: %s", step, _readable(stats))
        if _is_best(stats, best, settings.early_stop_key):
            best[:] = [TrainedArchive(out, step, {name: float(value) for name, value in stats.items()})]
            _save(out, best[0], trainer.model, settings, hparams.model_name, min(len(train_facts), steps))

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), at_work(model, settings), bar("training MEND", steps) as advance:
        torch.manual_seed(int(settings.seed))
        trainer = _trainer(model, settings, training, validation)
        train_step = trainer.train_step

        def counted(batch: object) -> Any:
            advance(1)
            return train_step(batch)

        trainer.train_step, trainer.save_state = counted, keep
        trainer.run()
        if steps % settings.val_interval:
            keep(trainer.validate(steps=settings.val_steps))
    if not best:
        raise ArithmeticError(f"MEND: {settings.early_stop_key} is never finite: lower lr or edit_lr.")
    return best[0]


def _trainer(model: nn.Module, settings: Any, training: Examples, validation: Examples) -> Any:
    """Create EasyEdit's trainer for a model that is already loaded."""
    base = importlib.import_module("easyeditor.trainer.BaseTrainer")
    new_trainer = importlib.import_module("easyeditor.trainer.EditTrainer").EditTrainer
    with patch.object(base, "get_model", lambda _: model), device_named(settings):
        return new_trainer(settings, training, validation)


def _is_best(stats: Mapping[str, float], best: Sequence[TrainedArchive], key: str) -> bool:
    """Whether a validation is finite and better than the best so far, if there is one."""
    sign = 1 if "acc" in key else -1
    finite = bool(torch.tensor(stats[key]).isfinite())
    return finite and (not best or sign * stats[key] > sign * best[0].validation[key])


def _training_settings(hparams: Any, model: nn.Module, steps: int) -> Any:
    """Return the hyperparameters as EasyEdit's trainer needs them."""
    settings = dataclasses.replace(
        settings_for(hparams, model),
        archive=None,
        max_epochs=None,
        max_iters=steps + 1,  # the trainer stops one step before
        batch_size=1,
        val_batch_size=1,
        val_interval=min(hparams.val_interval, steps),
        eval_only=False,
        final_eval=False,  # it would unpickle the trainer's own file
        debug=True,  # with save=False: the trainer makes no folders
        save=False,
        results_dir=".",
    )
    settings.alg = "MEND"  # main's trainer reads it, and its MENDHyperParams has no such field
    return settings


def _save(out: Path, best: TrainedArchive, network: Any, settings: Any, model_name: str, facts: int) -> None:
    """Write the archive. facts: the number of facts it was trained on."""
    archive = {
        "model": _saved_state(network.state_dict()),
        "inner_params": list(settings.inner_params),
        "model_name": model_name,
        "train_facts": facts,
        "step": best.step,
        "validation": best.validation,
    }
    with written_whole(out) as path:
        torch.save(archive, path)


def _saved_state(state: Mapping[str, object]) -> dict[str, object]:
    """Return the network's state for the archive: tensors on the CPU; the model's config, which EasyEdit only compares,
    as text."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else str(value) for name, value in state.items()
    }


def _readable(stats: Mapping[str, float]) -> str:
    shown = ("edit/acc_val", "edit/prob_val", "loss/edit_val", "loss/loc_val", "loss/total_edit_val")
    return ", ".join(f"{name} {stats[name]:.4g}" for name in shown if name in stats)
