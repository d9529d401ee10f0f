"""Shims that make NSE run in the PyPI wheel `easyeditor==0.0.1.dev0` (October 2023).

A clone of EasyEdit's main branch needs none of them. Each shim documents the wheel's behaviour and why it is changed.
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
    """Return whether this `easyeditor.editors.editor` is from the 2023 wheel, which lacks `sequential_edit`."""
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
    """Wrap an algorithm so that it treats `keep_original_weight` as the wheel does.

    On main, an algorithm always returns the original weights, and the editor restores them unless the run is
    sequential. The wheel restores all weights that are returned. With `keep_original_weight=False`, its default, edits
    accumulate, so the algorithm must return no weights.
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
    """Replaces `transformers.LlamaTokenizer`, with which the wheel loads the tokenizer of every model named llama.

    Since transformers 5, that class ignores the folder's tokenizer.json and silently loses the spaces. The wheel also
    checks `isinstance(tok, LlamaTokenizer)` before it sets the padding side.
    """

    @staticmethod
    def from_pretrained(*args: object, **kwargs: object) -> Any:
        from transformers import AutoTokenizer  # slow to import, and nothing else here needs it

        return AutoTokenizer.from_pretrained(*args, **kwargs)


def _sequential_edit(method: Method) -> Method:
    """Translate main's argument `sequential_edit`, which the wheel ignores, into the wheel's `keep_original_weight`. If
    it is not given, the wheel's default applies and edits accumulate."""

    @functools.wraps(method)
    def edit(self: object, *args: object, sequential_edit: bool | None = None, **kwargs: object) -> Any:
        if sequential_edit is not None:
            kwargs["keep_original_weight"] = not sequential_edit
        return method(self, *args, **kwargs)

    return edit


def _keeping_batch_size(method: Method) -> Method:
    """Restore the user's `hparams.batch_size` after single edits: the wheel sets it to 1 permanently, which would turn
    every later `batch_edit` into single edits too."""

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
    """Return the metrics of all chunks: the wheel splits the facts into chunks of `batch_size` and returns only the
    metrics of the last chunk. The shim runs its method once per chunk, with one chunk at a time.

    As in the wheel, "pre" is measured after the chunk's edits were undone, so in a sequential run it is measured on the
    edited model.
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
    """Run a method of the wheel on the intended device: the wheel moves everything to `f"cuda:{hparams.device}"`, even
    if the device is "cpu" or there is no CUDA. While the method runs, that name is read as the intended device."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with device_meant(self.hparams):
            return method(self, *args, **kwargs)

    return run


def _loading_on_its_device(load: Method) -> Method:
    """Do the same as `_on_its_device` for the constructor, when the editor has no `hparams` yet."""

    @functools.wraps(load)
    def load_there(self: object, hparams: Any) -> None:
        with device_meant(hparams):
            load(self, hparams)

    return load_there


def device_meant(hparams: Any) -> contextlib.AbstractContextManager[Any]:
    """Return a context manager in which `f"cuda:{hparams.device}"` works; it does nothing if that device exists."""
    device: int | str = getattr(hparams, "device", "cpu")  # methods that call a web service have none
    written = f"cuda:{device}"
    meant = torch.device(written if str(device).isdigit() else device)
    if meant.type == "cuda" and not torch.cuda.is_available():
        meant = torch.device("cpu")
    return contextlib.nullcontext() if str(meant) == written else DeviceName(written, meant)


class DeviceName(TorchFunctionMode):
    """Context manager in which every torch call reads the string `name` as `device`.

    It is active only during the editor's methods instead of changing torch for the whole process, so that other code is
    not affected. On a machine with CUDA it is not used at all if `hparams.device` is a number.
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
    """Run the block with the `Trace` of the wheel, or of other code with ROME's nethook, returning the outputs of the
    decoder layers as tuples.

    MEMIT uses `output[0]` as the hidden states [B, S, d]. Decoder layers returned them in a tuple until transformers
    4.53; since then they return the hidden states themselves, and `[0]` would be the first row.
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
