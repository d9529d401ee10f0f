"""AlphaEdit, WISE and UltraEdit as EasyEdit's main has them, each with a memory of its own.

What these three remember from round to round is more than the weights, and EasyEdit keeps it in module globals, or in
one object for the whole process: the next model meets what the last one left. Here each is an object in the place of
EasyEdit's function, to be made once for a sequence of rounds on one model; it holds the memory and lends it to
EasyEdit's own code for the time of a call.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nse_plugin.hparams import HyperParamsError
from nse_plugin.models.writing.generation import continue_texts
from nse_plugin.models.writing.templates import NEW_TOKENS, OPENINGS

Request = Mapping[str, Any]
Edited = tuple[nn.Module, Any]


class Lifelong(ABC):
    """An algorithm of EasyEdit's main together with what it remembers of its rounds on one model.

    apply: EasyEdit's own, out of its `ALG_DICT`.
    """

    padding_side = "right"  # of the tokenizer: the side that the algorithm counts on

    def __init__(self, apply: Any) -> None:
        self._apply = apply
        functools.update_wrapper(self, apply)

    @abstractmethod
    def __call__(self, model: nn.Module, tok: Any, requests: Sequence[Request], hparams: Any, **options: Any) -> Edited:
        """One round, by EasyEdit's contract; the model it hands back is the one it was given."""

    def tensors(self) -> dict[str, Tensor] | None:
        """The memory, to be saved beside the weights. None: it cannot be saved."""
        return None

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors()` gave."""
        raise NotImplementedError(f"{type(self).__name__} saves no memory.")


class AlphaEdit(Lifelong):
    """AlphaEdit (Fang et al. 2024, arXiv 2410.02355): the update is projected onto what C0 leaves empty.

    P of a layer projects onto the eigenvectors of C0 whose eigenvalue is below `nullspace_threshold`. It follows from
    the second moments; the memory is K_p K_p^T, the keys of earlier rounds, [layers, f, f].

    EasyEdit would take P from a file, or write one into the working folder for every later model to read, and makes
    room for K_p K_p^T by words in the model's name, GPT-J's not among them.
    """

    def __init__(self, apply: Any) -> None:
        super().__init__(apply)
        self._module = _module_of(apply)
        self._projections: Tensor | None = None
        self._earlier: Tensor | None = None

    def __call__(self, model: nn.Module, tok: Any, requests: Sequence[Request], hparams: Any, **options: Any) -> Edited:
        if self._projections is None:
            self._projections = torch.stack([self._projection(model, tok, layer, hparams) for layer in hparams.layers])
        if self._earlier is None:
            self._earlier = torch.zeros_like(self._projections)
        ours = {"P": self._projections, "P_loaded": True, "cache_c": self._earlier, "cache_c_new": True}
        with _globals(self._module, ours):
            # of a P that is loaded, its file is still asked to exist
            edited: Edited = self._apply(model, tok, requests, replace(hparams, P_loc=os.curdir), **options)
        return edited

    def _projection(self, model: nn.Module, tok: Any, layer: int, hparams: Any) -> Tensor:
        projection: Tensor = self._module.get_project(model, tok, layer, hparams)
        if not projection.any():
            raise HyperParamsError(
                f"nullspace_threshold = {hparams.nullspace_threshold!r} is below every eigenvalue of layer {layer}'s "
                "second moment: nothing could be written there, so raise it."
            )
        return projection

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._earlier is None else {"earlier": self._earlier.clone()}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        if "earlier" in tensors:
            self._earlier = tensors["earlier"].cpu().clone()


class WISE(Lifelong):
    """WISE (Wang et al. 2024, arXiv 2405.14768): a side memory beside one matrix, and a threshold that routes to it.

    It wants, with every fact, a text that has nothing to do with it, which must keep clear of the side memory. EasyEdit
    leaves the choice to the user; here the unedited model writes them. They are shorter than any fact in its context:
    where one is longer, EasyEdit takes part of the prompt for the target.

    The memory is the adapter in the model and two lists of what was edited; it cannot be saved from here.
    """

    padding_side = "left"

    def __init__(self, apply: Any) -> None:
        super().__init__(apply)
        self._histories: dict[str, Any] = {"edit_history": [], "merge_group_edit_history": []}
        self._unrelated: list[str] = []

    def __call__(self, model: nn.Module, tok: Any, requests: Sequence[Request], hparams: Any, **options: Any) -> Edited:
        if not self._unrelated:
            self._unrelated = _short_texts(model, tok)
        settings = replace(hparams, load_path=None)  # the sequence begins with the unedited model
        settings.sequential_edit = True  # no field: without it, every call puts a new adapter over the last one
        edits = len(self._histories["edit_history"])
        facts = [
            {**request, "loc_prompt": self._unrelated[(edits + number) % len(self._unrelated)]}
            for number, request in enumerate(requests)
        ]
        with _globals(importlib.import_module("easyeditor.models.wise.WISE"), self._histories):
            wrapper, _ = self._apply(model, tok, facts, settings, **options)
        adapter = wrapper.get_adapter_layer()
        adapter.zero_grad()
        if not isinstance(adapter.forward, _RowByRow):
            adapter.forward = _RowByRow(model, adapter)
        return wrapper.model, {}


class _RowByRow:
    """The forward of WISE's adapter, each row of a batch on its own.

    EasyEdit's measures how far the side memory's output lies from the original one, takes the mean over everything in
    the batch, padding too, and sends the whole batch one way. It is right for one text without padding; so it gets
    each row that way. In generation with a cache it decides token by token, as in EasyEdit.
    """

    def __init__(self, model: nn.Module, adapter: Any) -> None:
        self._adapter, self._forward = adapter, adapter.forward
        self._mask: Tensor | None = None
        model.register_forward_pre_hook(self._remember_mask, with_kwargs=True)

    def _remember_mask(self, _: nn.Module, __: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        self._mask = options.get("attention_mask")

    def __call__(self, hidden: Tensor) -> Tensor:
        """hidden: [B, S, f]. Returns [B, S, d]."""
        if self._adapter.editing:
            return self._forward(hidden)  # type: ignore[no-any-return]
        output: Tensor = self._adapter.original_layer(hidden)
        rows, length = hidden.shape[:2]
        read = torch.ones(rows, length, dtype=torch.bool, device=hidden.device)
        if self._mask is not None:
            read = self._mask[:, -length:].to(read)
        for row in range(rows):
            output[row, read[row]] = self._forward(hidden[row : row + 1, read[row]])[0].to(output.dtype)
        return output


class UltraEdit(Lifelong):
    """UltraEdit (Gu et al. 2025, arXiv 2505.14679): one linear solve on normalised keys and gradients, no training.

    The normalisation is over all rounds so far, "lifelong" in the paper; its running statistics are the memory.
    EasyEdit starts them afresh with every call, and keeps the first model it meets.
    """

    padding_side = "left"  # targets are counted from the right end

    def __init__(self, apply: Any) -> None:
        super().__init__(apply)
        self._module = _module_of(apply)
        self._statistics: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module, tok: Any, requests: Sequence[Request], hparams: Any, **options: Any) -> Edited:
        size = len(requests)
        settings = replace(
            hparams,
            half=False,  # else the model itself is made so
            inner_params=list(hparams.inner_params),  # rewritten in place
            batch_size=size,  # of what is beyond it EasyEdit reads nothing
            batch_size_once=max(once for once in range(1, int(hparams.batch_size_once) + 1) if size % once == 0),
        )
        executor = self._module.UltraEditRewriteExecutor()
        executor.init_model(model, tok, settings)
        executor.is_init = True
        executor.alg.shift = True  # EasyEdit tells a causal model by words in its name
        normaliser = executor.alg.lifelong_normalizer
        if self._statistics:
            normaliser.load_state_dict(self._statistics)
        edited: Edited = executor.apply_to_model(model, tok, requests, settings, **options)
        self._statistics = {name: tensor.clone() for name, tensor in normaliser.state_dict().items()}
        return edited

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._statistics)

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        self._statistics = dict(tensors)


_CLASSES: dict[str, type[Lifelong]] = {"AlphaEdit": AlphaEdit, "WISE": WISE, "ULTRAEDIT": UltraEdit}


def with_own_memory(alg_name: str, apply: Any) -> Any:
    """EasyEdit's algorithm for one sequence of rounds: a new `Lifelong` for those of this file, else as it is."""
    return _CLASSES[alg_name](apply) if alg_name in _CLASSES else apply


def _module_of(apply: Any) -> ModuleType:
    return importlib.import_module(inspect.unwrap(apply).__module__)


@contextmanager
def _globals(module: ModuleType, ours: dict[str, Any]) -> Iterator[None]:
    """Within, the module's globals of these names are `ours`; what became of them is in `ours` afterwards."""
    theirs = {name: vars(module)[name] for name in ours if name in vars(module)}
    vars(module).update(ours)
    try:
        yield
    finally:
        ours.update({name: vars(module).pop(name) for name in ours})
        vars(module).update(theirs)


def _short_texts(model: nn.Module, tok: Any) -> list[str]:
    """Twenty beginnings of texts, a context template's length each, that the model writes; always the same ones."""
    prompts = OPENINGS * 4
    texts = continue_texts(model, tok, prompts, new_tokens=NEW_TOKENS, places=range(100, 100 + len(prompts)))
    return [" ".join(text.split()) for text in texts]
