"""Base class for algorithms of EasyEdit's main with their own memory.

AlphaEdit, WISE and UltraEdit keep more than the weights from round to round. EasyEdit stores it in module globals, or
in one object for the whole process, so the next model starts with the memory of the last one. Here, an object replaces
EasyEdit's function and is created once for a sequence of rounds on one model; it holds the memory and lends it to
EasyEdit's own code during a call.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Request = Mapping[str, Any]
Edited = tuple[nn.Module, Any]
Apply = Callable[..., tuple[Any, Any]]  # an algorithm's function in EasyEdit; WISE returns a wrapper of the model


class StatefulMethod(ABC):
    """An algorithm of EasyEdit's main together with its memory of the rounds on one model.

    apply: EasyEdit's own function, from its `ALG_DICT`.
    """

    padding_side = "right"  # of the tokenizer: the side from which the algorithm counts no positions

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        functools.update_wrapper(self, apply)

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        tok: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        hparams: Any,
        **options: object,
    ) -> Edited:
        """Run one round, following EasyEdit's contract. Returns the same model that was passed in."""

    def tensors(self) -> dict[str, Tensor] | None:
        """Return the memory to be saved with the weights, by name (AlphaEdit's K_p K_p^T is [layers, f, f]); None if it
        cannot be saved."""
        return None

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore a memory returned by `tensors()`, in the same shape."""
        raise NotImplementedError(f"{type(self).__name__} saves no memory.")


def module_of(apply: Apply) -> ModuleType:
    """Return the EasyEdit module that an algorithm is defined in."""
    return importlib.import_module(inspect.unwrap(apply).__module__)


@contextmanager
def lent_globals(module: ModuleType, ours: dict[str, object]) -> Iterator[None]:
    """Run the block with the module's globals of these names set to `ours`; afterwards `ours` has their final values,
    and the previous globals are restored."""
    theirs = {name: vars(module)[name] for name in ours if name in vars(module)}
    vars(module).update(ours)
    try:
        yield
    finally:
        ours.update({name: vars(module).pop(name) for name in ours})
        vars(module).update(theirs)
