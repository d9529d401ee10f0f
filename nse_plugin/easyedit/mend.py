"""EasyEdit's MEND on any causal language model: its editor network trained here, and used one fact at a time.

MEND (Mitchell et al. 2022, arXiv 2110.11309) learns a small network that turns the gradient of one fact into an edit
of a few matrices. Training minimises c_edit * L_edit + c_loc * L_loc over facts: the edited model's loss of the target,
and its KL divergence from the unedited model on text that must not change. Network, losses and training loop are
EasyEdit's (`EditTrainer`, `MEND`, `MendRewriteExecutor`); here is what they need around them:

- a model that is loaded already, of whatever name, on whatever device, and left as it was but for the edit;
- facts instead of files of one dataset, tokenised as the evaluation tokenises them (EasyEdit's CounterFact training
  takes the target without the space in front, its executor with it, and both with a BOS where the tokenizer adds one);
- an archive of tensors and plain values, which loads without unpickling anything.

EasyEdit's executor also keeps editing the first model it was ever given. And on the PyPI wheel, `higher`, with which
it makes the edited model differentiable, cannot slice a ModuleList, as the Llama family does; and its executor moves
the network's statistics with every edit it makes.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BatchEncoding

from nse_plugin.baselines.requests import prompts_and_targets
from nse_plugin.easyedit import wheel
from nse_plugin.easyedit.locate import import_easyedit
from nse_plugin.easyedit.method_hparams import load_hparams
from nse_plugin.easyedit.scopes import replaced
from nse_plugin.facts import Fact, FactError
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.loading import easyedit_device
from nse_plugin.models.prompts import split_target
from nse_plugin.models.transformers_private import Conv1D
from nse_plugin.support.files import cache_home, written_whole
from nse_plugin.support.progress import bar

log = logging.getLogger(__name__)


class ArchiveError(RuntimeError):
    """No archive that MEND can use; the message says which command makes one."""


@dataclass(frozen=True)
class TrainedArchive:
    """Where `train_mend` wrote its archive, the step it is of, and that step's means over the validation facts."""

    path: Path
    step: int
    validation: dict[str, float]


def archive_path(hparams: Any) -> Path:
    """Where the archive of EasyEdit's `MENDHyperParams` lies: its `archive`, or `<cache>/mend/<model name>.pt`."""
    if hparams.archive:
        return Path(hparams.archive)
    return cache_home() / "mend" / f"{Path(hparams.model_name).name}.pt"


def train_mend(
    model: Any,
    tokenizer: Any,
    train_facts: Sequence[Fact],
    val_facts: Sequence[Fact],
    hparams: Any,
    out: Path | None = None,
    steps: int | None = None,
) -> TrainedArchive:
    """Train MEND's network for a loaded model with EasyEdit's trainer, and write the archive of the best step.

    It is written at every validation that is the best so far: a training that is stopped leaves that one.

    train_facts, val_facts: facts with locality prompts; a step takes one fact and one of them, in random order.
    hparams: EasyEdit's MENDHyperParams, or the path of a YAML file for it. `early_stop_key` says what "best" is.
    out: None: `archive_path(hparams)`. steps: None: `max_iters`.
    The model is as before afterwards.

    Raises FactError when there are no facts, or one has no locality prompts; HyperParamsError for inner_params that
    the model does not have; ArithmeticError when the validation is not finite, and nothing is written.
    """
    import_easyedit()
    if isinstance(hparams, str | Path):
        hparams = load_hparams("MEND", hparams, {}, model)
    steps = int(hparams.max_iters) if steps is None else steps
    if steps < 1:
        raise HyperParamsError(f"max_iters = {steps} cannot be used: train for at least one step.")
    out = archive_path(hparams) if out is None else out
    device = model.get_input_embeddings().weight.device
    training = _Examples(tokenizer, train_facts, device, steps)
    validation = _Examples(tokenizer, val_facts, device, len(val_facts))
    settings = dataclasses.replace(
        _settings(hparams, model),
        archive=None,
        max_epochs=None,
        max_iters=steps + 1,  # the trainer stops before it
        batch_size=1,
        val_batch_size=1,
        val_interval=min(hparams.val_interval, steps),
        eval_only=False,
        final_eval=False,  # would unpickle its own file
        debug=True,  # with save=False: the trainer makes no folders
        save=False,
        results_dir=".",
    )
    settings.alg = "MEND"  # main's trainer reads it, and its MENDHyperParams has no such field
    best: list[TrainedArchive] = []

    def keep(stats: Mapping[str, float]) -> None:
        """In place of the trainer's own saving, which pickles: write the archive whenever the network is the best."""
        step = min(trainer.global_iter, steps)
        log.info("MEND: step %d: %s", step, _readable(stats))
        key = settings.early_stop_key
        sign = 1 if "acc" in key else -1
        if torch.tensor(stats[key]).isfinite() and (not best or sign * stats[key] > sign * best[0].validation[key]):
            best[:] = [TrainedArchive(out, step, {name: float(value) for name, value in stats.items()})]
            archive = {
                "model": _plain(trainer.model.state_dict()),
                "inner_params": list(settings.inner_params),
                "model_name": hparams.model_name,
                "train_facts": min(len(train_facts), steps),
                "step": best[0].step,
                "validation": best[0].validation,
            }
            with written_whole(out) as path:
                torch.save(archive, path)

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _at_work(model, settings), bar("training MEND", steps) as advance:
        torch.manual_seed(int(settings.seed))
        base = importlib.import_module("easyeditor.trainer.BaseTrainer")
        new_trainer = importlib.import_module("easyeditor.trainer.EditTrainer").EditTrainer
        with replaced(base, "get_model", lambda _: model), _device_named(settings):
            trainer = new_trainer(settings, training, validation)
        train_step = trainer.train_step

        def counted(batch: Any) -> Any:
            advance(1)
            return train_step(batch)

        trainer.train_step, trainer.save_state = counted, keep
        trainer.run()
        if steps % settings.val_interval:
            keep(trainer.validate(steps=settings.val_steps))
    if not best:
        raise ArithmeticError(f"MEND: {settings.early_stop_key} is never finite: lower lr or edit_lr.")
    return best[0]


class MEND:
    """EasyEdit's `MendRewriteExecutor` with its trained network; a model is its own for the time of a call only."""

    def __init__(self) -> None:
        self._executor: Any = None
        self._loaded: tuple[Path, int, tuple[str, ...]] | None = None

    def apply_to_model(
        self,
        model: nn.Module,
        tok: Any,
        requests: Sequence[Mapping[str, Any]],
        hparams: Any,
        copy: bool = False,
        return_orig_weights: bool = False,
        keep_original_weight: bool = False,
        **_: Any,
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """Write requests into the model, one after the other (EasyEdit's contract).

        requests: `prompt` (the subject written out, or `{}` and `subject`) and `target_new`. hparams: EasyEdit's
        MENDHyperParams. copy: edit a copy of the model.
        Returns (edited model, the `inner_params` as they were or {}; on the wheel {} without `keep_original_weight`,
        as it then lets edits add up).
        Raises FactError, HyperParamsError, or ArchiveError when there is no archive for them.
        """
        texts = prompts_and_targets(requests)
        import_easyedit()
        settings = _settings(hparams, model)
        path = archive_path(hparams)
        if not path.is_file():
            raise ArchiveError(
                f"MEND needs a trained network, and there is no archive {path}: {_remedy(path, hparams)}"
            )
        wanted = (path, path.stat().st_mtime_ns, tuple(settings.inner_params))
        if copy:
            model = deepcopy(model)
        parameters = dict(model.named_parameters())
        originals = {name: parameters[name].detach().clone() for name in settings.inner_params}
        with _at_work(model, settings), _device_named(settings):
            if self._loaded != wanted:
                self._executor, self._loaded = _executor(model, tok, settings, path, hparams), wanted
            executor = self._executor
            executor.model = executor.alg.model = model
            executor.alg.eval()  # the wheel forgets to, and would then forget the network's statistics
            try:
                for text in texts:
                    executor.tokenizer = _OneFact(tok, text)
                    one = {"prompt": text[0], "target_new": text[1]}
                    executor.apply_to_model(model, tok, [one], settings)
            except BaseException:
                with torch.no_grad():
                    for name, original in originals.items():
                        parameters[name].copy_(original)
                raise
            finally:
                executor.model = executor.alg.model = executor.tokenizer = None
        wanted_back = return_orig_weights and (keep_original_weight or not _on_wheel())
        return model, originals if wanted_back else {}


mend = MEND()
apply_mend_to_model = mend.apply_to_model


def _settings(hparams: Any, model: Any) -> Any:
    """The hyperparameters as EasyEdit must see them for this model.

    It knows a model by words in its name and class: what they decide is how a matrix lies ("gpt2": Conv1D, "llama":
    Linear) and that predictions stand one place before their token.
    """
    modules = dict(model.named_modules())
    owners = [modules.get(name.removesuffix(".weight")) for name in hparams.inner_params]
    missing = [name for name, owner in zip(hparams.inner_params, owners, strict=True) if owner is None]
    if missing or not owners:
        raise HyperParamsError(
            f"inner_params = {missing or hparams.inner_params!r}: this {type(model).__name__} has no such matrices; "
            "name some of its parameters."
        )
    word = "gpt2" if isinstance(owners[0], Conv1D) else "llama"
    device = model.get_input_embeddings().weight.device
    return dataclasses.replace(
        hparams,
        model_name=word,
        model_class=word,
        inner_params=list(hparams.inner_params),
        device=easyedit_device(device),
        # of a model on several devices, EasyEdit then moves no part
        model_parallel=len({parameter.device for parameter in model.parameters()}) > 1,
        dropout=0.0,
    )


def _check_archive(copy: Path, path: Path, hparams: Any) -> None:
    """Raise ArchiveError unless the copy of an archive holds tensors and plain values only, trained for these matrices.

    EasyEdit's main unpickles it afterwards; what passes here has nothing in it that runs.
    """
    try:
        trained_for = torch.load(copy, map_location="cpu", weights_only=True)["inner_params"]
    except Exception as error:
        raise ArchiveError(
            f"{path} is no archive of `nse train-mend` ({type(error).__name__}), and others are not opened, because "
            f"that may run code: {_remedy(path, hparams)}"
        ) from error
    if trained_for != list(hparams.inner_params):
        raise ArchiveError(f"{path} was trained for inner_params {trained_for}: use those, or {_remedy(path, hparams)}")


def _remedy(path: Path, hparams: Any) -> str:
    return f"run `nse train-mend --model {Path(hparams.model_name).name} --data FACTS.json --out {path}`."


def _executor(model: nn.Module, tok: Any, settings: Any, path: Path, hparams: Any) -> Any:
    """EasyEdit's executor with the archive's network, read from a private copy: it cannot change between the check and
    the load. Raises ArchiveError."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(path, folder))
        _check_archive(copy, path, hparams)
        return _executor_with(model, tok, settings, copy, path)


def _executor_with(model: nn.Module, tok: Any, settings: Any, copy: Path, path: Path) -> Any:
    executor = importlib.import_module("easyeditor.models.mend").MendRewriteExecutor()
    try:
        executor.init_model(model, tok, dataclasses.replace(settings, archive=str(copy)))
    except RuntimeError as error:
        raise ArchiveError(
            f"{path} does not fit these hyperparameters and this model ({str(error).splitlines()[-1].strip()}): use "
            "the rank, n_hidden, shared and model it was trained with."
        ) from error
    return executor


@contextmanager
def _at_work(model: nn.Module, settings: Any) -> Iterator[None]:
    """Within, the model is as MEND needs it; afterwards as it was.

    Gradients for `inner_params` only, so that the backward pass stops above the other layers; no dropout; EasyEdit's
    hooks, which record what enters these matrices and the gradient of what leaves them. And the wheel's repairs.
    """
    algorithm = importlib.import_module("easyeditor.trainer.algs.MEND")
    hooks = importlib.import_module("easyeditor.trainer.algs.hooks")
    parameters = dict(model.named_parameters())
    inner = [parameters[name] for name in settings.inner_params]
    asked = {parameter: parameter.requires_grad for parameter in parameters.values()}
    training = {module: module.training for module in model.modules()}
    dropout = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    with ExitStack() as stack, warnings.catch_warnings():
        # the lowest hooked matrix has nothing below it that asks for gradients; its own is what is wanted
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        if _on_wheel():
            stack.enter_context(replaced(algorithm, "monkeypatch", lambda model, in_place: _WithWeights(model)))
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
            for parameter in inner:
                parameter.requires_grad_(True)
            for dropped in dropout:
                dropped.p = 0.0
            hooks.hook_model(model, settings.inner_params)  # sets model.handles; MEND then hooks nothing itself
            with torch.enable_grad():
                yield
        finally:
            for handle in model.__dict__.pop("handles", ()):
                handle.remove()
            for parameter in inner:
                parameter.__dict__.pop("__x__", None)
                parameter.__dict__.pop("__delta__", None)
            for dropped, p in dropout.items():
                dropped.p = p
            for module, was_training in training.items():
                module.training = was_training
            for parameter, had_gradient in asked.items():
                parameter.requires_grad_(had_gradient)


def _on_wheel() -> bool:
    return wheel.is_wheel(importlib.import_module("easyeditor.editors.editor"))


def _device_named(settings: Any) -> AbstractContextManager[Any]:
    """The scope in which the wheel finds its device."""
    return wheel.device_meant(settings) if _on_wheel() else nullcontext()


class _WithWeights:
    """A model with other weights, differentiable in them: as much of `higher`'s monkeypatch as the wheel uses."""

    handles = ()  # the model itself is hooked

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights: dict[str, Tensor] = dict(model.named_parameters())

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self._weights.items())

    def update_params(self, weights: Sequence[Tensor]) -> None:
        self._weights = dict(zip(self._weights, weights, strict=True))

    def __call__(self, **inputs: Any) -> Any:
        return functional_call(self._model, self._weights, kwargs=inputs)


class _Examples(torch.utils.data.Dataset[int]):
    """Facts as EasyEdit's trainer takes them, `count` in all, going round: each time with the next locality prompt."""

    def __init__(self, tokenizer: Any, facts: Sequence[Fact], device: torch.device, count: int) -> None:
        if not facts:
            raise FactError("facts is empty: training MEND needs facts to train on, and others to validate on.")
        for fact in facts:
            if not fact.locality_prompts:
                raise FactError(
                    f"fact {fact.case_id} ({fact.text!r:.60}): locality_prompts is empty: MEND learns from them what "
                    "must not change, so give at least one, or leave the fact out."
                )
        self._tokenizer, self._facts, self._device, self._count = tokenizer, facts, device, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> int:
        if index >= self._count:
            raise IndexError(index)
        return index

    def collate_gpt_fn(self, indices: Sequence[int]) -> dict[str, dict[str, Tensor]]:
        """One fact as a batch: the edit (labels: the target), a text that must not change (labels: its next tokens)."""
        (index,) = indices
        fact = self._facts[index % len(self._facts)]
        question, answer = fact.locality_prompts[index // len(self._facts) % len(fact.locality_prompts)]
        prompt, target = split_target(self._tokenizer, *fact.asked(fact.text, fact.target_new))
        untouched = [token for part in split_target(self._tokenizer, *fact.asked(question, answer)) for token in part]
        return {
            "edit_inner": self._batch(prompt + target, target),
            "loc": self._batch(untouched, [*untouched[1:], -100]),
            "cond": {},
        }

    def _batch(self, ids: list[int], labels: list[int]) -> dict[str, Tensor]:
        row = torch.tensor([ids], device=self._device)
        wanted = torch.tensor([labels], device=self._device)
        return {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": wanted}


class _OneFact:
    """Stands for a tokenizer in EasyEdit's executor, which asks it for the sentence and for the target."""

    pad_token_id = -1  # nothing is padded

    def __init__(self, tokenizer: Any, text: tuple[str, str, str]) -> None:
        self._prompt = text[0]
        self._ids = split_target(tokenizer, *text)

    def __call__(self, texts: Sequence[str], **_: Any) -> BatchEncoding:
        (text,) = texts
        prompt, target = self._ids
        row = torch.tensor([prompt + target if text.startswith(self._prompt) else target])
        return BatchEncoding({"input_ids": row, "attention_mask": torch.ones_like(row)})


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """The network's tensors on the CPU; the model's config, which EasyEdit only compares, as text."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else str(value) for name, value in state.items()
    }


def _readable(stats: Mapping[str, float]) -> str:
    shown = ("edit/acc_val", "edit/prob_val", "loss/edit_val", "loss/loc_val", "loss/total_edit_val")
    return ", ".join(f"{name} {stats[name]:.4g}" for name in shown if name in stats)
