"""Set up a model and EasyEdit while MEND is running."""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call

from nse_plugin.easyedit import wheel
from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.inputs import input_device
from nse_plugin.models.loading import easyedit_device
from nse_plugin.models.transformers_private import Conv1D


def settings_for(hparams: Any, model: nn.Module) -> Any:
    """Return the hyperparameters as EasyEdit needs them for this model.

    EasyEdit recognises a model by words in its name and class. They determine how a matrix is stored ("gpt2": Conv1D,
    "llama": Linear), and that predictions are one position before their token.
    Raises HyperParamsError if `inner_params` is empty or names parameters that the model does not have.
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
    device = input_device(model)
    return dataclasses.replace(
        hparams,
        model_name=word,
        model_class=word,
        inner_params=list(hparams.inner_params),
        device=easyedit_device(device),
        # for a model on several devices: EasyEdit then moves no part of it
        model_parallel=len({parameter.device for parameter in model.parameters()}) > 1,
        dropout=0.0,
    )


@contextmanager
def at_work(model: nn.Module, settings: Any) -> Iterator[None]:
    """Run the block with the model set up for MEND; afterwards everything but its weights is as before.

    Only `inner_params` require gradients, so that the backward pass stops at the lowest of them. There is no dropout.
    EasyEdit's hooks record the inputs of these matrices and the gradients of their outputs. On the wheel,
    `_WithWeights` replaces the function that makes the edited model differentiable.
    """
    algorithm = importlib.import_module("easyeditor.trainer.algs.MEND")
    hooks = importlib.import_module("easyeditor.trainer.algs.hooks")
    parameters = dict(model.named_parameters())
    inner = [parameters[name] for name in settings.inner_params]
    asked = {parameter: parameter.requires_grad for parameter in parameters.values()}
    training = {module: module.training for module in model.modules()}
    dropout = {module: module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    with ExitStack() as stack, warnings.catch_warnings():
        # no input of the lowest hooked matrix requires gradients; only the matrix's own gradient is needed
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        if on_wheel():
            stack.enter_context(patch.object(algorithm, "monkeypatch", lambda model, in_place: _WithWeights(model)))
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
            for parameter in inner:
                parameter.requires_grad_(True)
            for dropped in dropout:
                dropped.p = 0.0
            hooks.hook_model(model, settings.inner_params)  # sets model.handles; MEND then adds no hooks itself
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


def on_wheel() -> bool:
    """Whether the imported EasyEdit is the PyPI wheel."""
    return wheel.is_wheel(importlib.import_module("easyeditor.editors.editor"))


def device_named(settings: Any) -> AbstractContextManager[Any]:
    """Context manager in which the wheel finds its device; it does nothing on main."""
    return wheel.device_meant(settings) if on_wheel() else nullcontext()


class _WithWeights:
    """A model with other weights, differentiable with respect to them: the part of `higher`'s monkeypatch that the
    wheel uses."""

    handles = ()  # the model itself is hooked

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._weights: dict[str, Tensor] = dict(model.named_parameters())

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return list(self._weights.items())

    def update_params(self, weights: Sequence[Tensor]) -> None:
        self._weights = dict(zip(self._weights, weights, strict=True))

    def __call__(self, **inputs: object) -> Any:
        return functional_call(self._model, self._weights, kwargs=inputs)
