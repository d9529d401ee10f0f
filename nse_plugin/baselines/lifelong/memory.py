"""An algorithm of EasyEdit's main with its own memory.

What AlphaEdit, WISE and UltraEdit remember from round to round is more than the weights, and EasyEdit keeps it in
module globals, or in one object for the whole process: the next model starts with the memory of the last one. Here
each is an object in the place of EasyEdit's function, to be made once for a sequence of rounds on one model; it holds
the memory and lends it to EasyEdit's own code during a call.
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
Apply = Callable[..., tuple[Any, Any]]  # an algorithm, as EasyEdit calls it; WISE returns a wrapper of the model


class StatefulMethod(ABC):
    """An algorithm of EasyEdit's main together with what it remembers of its rounds on one model.

    apply: EasyEdit's own, out of its `ALG_DICT`.
    """

    padding_side = "right"  # of the tokenizer: the side that the algorithm counts on

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
        """One round, by EasyEdit's contract; the model it hands back is the one it was given."""

    def tensors(self) -> dict[str, Tensor] | None:
        """The memory, to be saved with the weights, by name (AlphaEdit's K_p K_p^T is [layers, f, f]); None: it cannot
        be saved."""
        return None

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the memory that `tensors()` returned, in the same shape."""
        raise NotImplementedError(f"{type(self).__name__} saves no memory.")


def module_of(apply: Apply) -> ModuleType:
    """The module of EasyEdit that an algorithm is in."""
    return importlib.import_module(inspect.unwrap(apply).__module__)


@contextmanager
def lent_globals(module: ModuleType, ours: dict[str, object]) -> Iterator[None]:
    """Within, the module's globals of these names are `ours`; what became of them is in `ours` afterwards."""
    theirs = {name: vars(module)[name] for name in ours if name in vars(module)}
    vars(module).update(ours)
    try:
        yield
    finally:
        ours.update({name: vars(module).pop(name) for name in ours})
        vars(module).update(theirs)
