"""Everything the PyPI wheel `easyeditor==0.0.1.dev0` (October 2023) needs before NSE runs in it.

A clone of EasyEdit's main needs none of this. Each shim documents what the wheel does and why that is changed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Method = Callable[..., Any]
Weights = dict[str, torch.Tensor]


def is_wheel(editor_module: ModuleType) -> bool:
    """Whether this `easyeditor.editors.editor` is the 2023 wheel's, known by what it cannot do."""
    return "sequential_edit" not in inspect.signature(editor_module.BaseEditor.batch_edit).parameters


def adapt(editor_module: ModuleType) -> None:
    """Install the shims in the wheel's `easyeditor.editors.editor`; call it once."""
    editor_module.LlamaTokenizer = _LlamaTokenizer  # type: ignore[attr-defined]
    editor = editor_module.BaseEditor
    editor.__init__ = _loading_on_its_device(editor.__init__)
    for names, shim in (
        (("edit", "edit_requests"), _keeping_batch_size),
        (("batch_edit", "edit_dataset"), _every_chunk),
    ):
        for name in names:
            setattr(editor, name, _on_its_device(_sequential_edit(shim(getattr(editor, name)))))


def restoring_only_when_asked(apply_to_model: Method) -> Method:
    """Give an algorithm the wheel's meaning of `keep_original_weight`.

    On main an algorithm always returns the weights as they were, and the editor puts them back unless the
    run is sequential. The wheel restores whatever it is given, and asks with `keep_original_weight=False`,
    its default, that edits shall add up: the algorithm must then return no weights.
    """

    @functools.wraps(apply_to_model)
    def apply(*args: object, keep_original_weight: bool = False, **kwargs: object) -> tuple[Any, Weights]:
        model, originals = apply_to_model(*args, keep_original_weight=keep_original_weight, **kwargs)
        return model, originals if keep_original_weight else {}

    return apply


class _AnyTokenizer(type):
    def __instancecheck__(cls, instance: object) -> bool:
        from transformers import PreTrainedTokenizerBase

        return isinstance(instance, PreTrainedTokenizerBase)


class _LlamaTokenizer(metaclass=_AnyTokenizer):
    """Stands for `transformers.LlamaTokenizer`, with which the wheel loads every model named llama.

    From transformers 5 on that class ignores the folder's own tokenizer.json and loses the spaces, without
    a word. The wheel also asks `isinstance(tok, LlamaTokenizer)` before it sets the padding side.
    """

    @staticmethod
    def from_pretrained(*args: object, **kwargs: object) -> Any:
        from transformers import AutoTokenizer  # slow to import, and nothing else here needs it

        return AutoTokenizer.from_pretrained(*args, **kwargs)


def _sequential_edit(method: Method) -> Method:
    """The wheel ignores main's `sequential_edit`: translate it into the wheel's own argument. Without it the
    wheel's default stands, and edits add up."""

    @functools.wraps(method)
    def edit(self: object, *args: object, sequential_edit: bool | None = None, **kwargs: object) -> Any:
        if sequential_edit is not None:
            kwargs["keep_original_weight"] = not sequential_edit
        return method(self, *args, **kwargs)

    return edit


def _keeping_batch_size(method: Method) -> Method:
    """The wheel's single edits set `hparams.batch_size` to 1 permanently, which would turn every later
    `batch_edit` into single edits too: put back what the user chose."""

    @functools.wraps(method)
    def edit(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch_size = getattr(self.hparams, "batch_size", None)
        try:
            return method(self, *args, **kwargs)
        finally:
            if batch_size is not None:
                self.hparams.batch_size = batch_size

    return edit


def _every_chunk(method: Method) -> Method:
    """The wheel cuts the facts into chunks of `batch_size` and returns the last chunk's metrics only: run
    its method once per chunk, by giving it one chunk at a time, and return the metrics of them all.

    As in the wheel, "pre" is measured after the chunk's edits were undone, so in a sequential run it shows
    the edited model.
    """

    @functools.wraps(method)
    def edit(self: Any, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any, Weights]:
        facts = list(inspect.signature(method).bind(self, *args, **kwargs).arguments.values())[1]
        if len(facts) == 0:
            raise ValueError(f"{method.__name__} was given no facts: pass at least one.")
        metrics: list[dict[str, Any]] = []
        start = 0

        def next_chunk(requests: Any, size: int) -> list[Any]:
            nonlocal start
            start += size
            return [requests[start - size : start]]

        self._chunks = next_chunk
        try:
            while start < len(facts):
                chunk_metrics, model, weights = method(self, *args, **kwargs)
                metrics += chunk_metrics
        finally:
            del self._chunks
        return metrics, model, weights

    return edit


def _on_its_device(method: Method) -> Method:
    """The wheel sends everything to `f"cuda:{hparams.device}"`, also when the device is "cpu" or there is
    no CUDA. While one of its methods runs, that one name stands for the device that is meant."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with device_meant(self.hparams):
            return method(self, *args, **kwargs)

    return run


def _loading_on_its_device(load: Method) -> Method:
    """The same for the constructor, where the editor has no `hparams` yet."""

    @functools.wraps(load)
    def load_there(self: object, hparams: Any) -> None:
        with device_meant(hparams):
            load(self, hparams)

    return load_there


def device_meant(hparams: Any) -> contextlib.AbstractContextManager[Any]:
    """The scope in which `f"cuda:{hparams.device}"` works: nothing to do where there is such a device."""
    device: int | str = getattr(hparams, "device", "cpu")  # methods that call a web service have none
    written = f"cuda:{device}"
    meant = torch.device(written if str(device).isdigit() else device)
    if meant.type == "cuda" and not torch.cuda.is_available():
        meant = torch.device("cpu")
    return contextlib.nullcontext() if str(meant) == written else DeviceName(written, meant)


class DeviceName(TorchFunctionMode):
    """Read the string `name` as `device` in every torch call.

    A scope around the editor's methods rather than a change of torch for the whole process: no other code
    gets the wrong name understood, and on a machine with CUDA it is not even entered.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        super().__init__()
        self.name = name
        self.device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        return func(*map(self._read, args), **{key: self._read(value) for key, value in kwargs.items()})

    def _read(self, value: object) -> Any:
        return self.device if isinstance(value, str) and value == self.name else value


@contextlib.contextmanager
def layers_in_tuples(layers: Iterable[nn.Module], nethook_name: str = "easyeditor.util.nethook") -> Iterator[None]:
    """Within, the wheel's `Trace`, or that of another code with ROME's nethook, shows the decoder layers' outputs as
    tuples.

    MEMIT takes `output[0]` for the hidden states [B, S, d]. That is how decoder layers returned them until
    transformers 4.53; since then they return the hidden states themselves, and `[0]` would be the first row.
    """
    nethook: Any = importlib.import_module(nethook_name)
    own, decoder_layers = nethook.Trace, set(layers)

    class Trace(own):  # type: ignore[misc,valid-type]
        def __init__(self, module: nn.Module, layer: str, *args: Any, edit_output: Any = None, **kwargs: Any) -> None:
            self._wraps = module.get_submodule(layer) in decoder_layers
            if edit_output is not None and self._wraps:
                edit_output = self._in_tuple(edit_output)
            super().__init__(module, layer, *args, edit_output=edit_output, **kwargs)

        @staticmethod
        def _in_tuple(edit: Callable[..., Any]) -> Callable[..., Any]:
            def edited(output: object, layer: str) -> Any:
                wrapped = (output,) if isinstance(output, torch.Tensor) else output
                done = nethook.invoke_with_optional_args(edit, output=wrapped, layer=layer)
                return done[0] if wrapped is not output else done

            return edited

        @property
        def output(self) -> Any:
            return (self._output,) if self._wraps and isinstance(self._output, torch.Tensor) else self._output

        @output.setter
        def output(self, output: object) -> None:
            self._output = output

    nethook.Trace = Trace
    try:
        yield
    finally:
        nethook.Trace = own
