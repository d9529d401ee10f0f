"""Which models were found to be replayable, kept in the user's cache so that a new process does not check them again.

    cache_home()/checked_models/<address>.json      what `check.py` found out, as `ReplayState` has it

The address is a hash of everything the result depends on: the model's identity and edited layers, its devices, the
releases and settings of torch and transformers, and the source of this package's model code. A model that runs code of
other packages or of the user is checked in every process, because that code could change without changing its identity.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from nse_plugin.models.layout import Layout
from nse_plugin.models.layout.batched_arguments import Axis, BatchedArguments
from nse_plugin.models.transformers_private import attention_of
from nse_plugin.replay.check import check_model, known_tokens
from nse_plugin.support.files import cache_folder, written_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_LIBRARIES = {"accelerate", "huggingface_hub", "torch", "transformers", *sys.stdlib_module_names}
_MODELS = "transformers.models."  # modules whose functions their models call
_DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


def check_new_model(
    layout: Layout,
    layers: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    identity: str | None,
    longest: int = 1,
) -> None:
    """Run `check_model` unless an earlier process checked this model for these layers and rows of `longest` tokens.
    Raises LayoutError.

    identity: the full identity of the model with its original weights; None if it has hooks or replaced methods: then
    the check is not kept.
    """
    known_tokens(layout, tokenizer)
    file = None if identity is None or not _is_librarys(layout.model) else _file(layout, layers, identity)
    if file is not None and not any(layout.replay.checked.values()):
        _read(file, layout, layers)
    if layout.checked_up_to(layers) < longest:
        is_finite = check_model(layout, layers, tokenizer, longest)
        if file is not None and is_finite:
            _write(file, layout, layers)


def _is_librarys(model: nn.Module) -> bool:
    """Return whether all code that the model runs belongs to torch and transformers, as far as can be seen."""
    if "dev" in transformers.__version__:  # its code may change under the same version
        return False
    modules = list(model.modules())
    attentions = {attention_of(module.config) for module in modules if hasattr(module, "config")}
    kinds = {parent for module in modules for parent in type(module).__mro__}
    homes = {kind.__module__ for kind in kinds}
    places = [*map(vars, kinds), *(vars(sys.modules[home]) for home in homes if home.startswith(_MODELS))]
    functions = {id(one): one for place in places for value in place.values() if (one := _function(value)) is not None}
    names = {*homes, *(str(function.__globals__.get("__name__")) for function in functions.values())}
    return attentions <= {"eager", "sdpa"} and {name.split(".")[0] for name in names} <= _LIBRARIES


def _function(value: object) -> types.FunctionType | None:
    function = getattr(value, "__func__", value)
    return function if isinstance(function, types.FunctionType) else None


def _file(layout: Layout, layers: Sequence[int], identity: str) -> Path | None:
    """Return the file of a model; None if there is no home directory."""
    devices = sorted({parameter.device.type for parameter in layout.model.parameters()})
    depends_on = [
        identity, list(layers), devices, layout.rewrite_module_tmp, torch.__version__, transformers.__version__,
        torch.get_float32_matmul_precision(), _source(),
    ]  # fmt: skip
    folder = cache_folder("checked_models")
    return None if folder is None else folder / f"{_hash(depends_on)}.json"


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


@functools.cache
def _source() -> str:
    """Hash the source of `models` and `replay`, which the result of a check depends on."""
    hashed = hashlib.sha256()
    package = Path(__file__).parents[1]
    for room in ("models", "replay"):
        for path in sorted((package / room).rglob("*.py")):
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _read(file: Path, layout: Layout, layers: Sequence[int]) -> None:
    """Read what was found out into `layout.replay`; a missing or damaged file is ignored."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content["found"]
        if content["sha256"] != _hash(found):
            raise ValueError("the checksum is wrong")
        batched = {
            int(number): {tuple(path): None if axis is None else Axis(*axis) for path, axis in axes}
            for number, axes in found["batched"].items()
        }
        whole_rows, length = found["whole_rows"], found["length"]
    except _DAMAGED as error:
        log.debug("%s: %s", file, error)
        return
    state = layout.replay
    state.whole_rows, state.batched = whole_rows, BatchedArguments(batched)
    state.checked[tuple(layers)] = length


def _write(file: Path, layout: Layout, layers: Sequence[int]) -> None:
    state = layout.replay
    batched: dict[str, Any] = {
        str(number): [[list(path), axis and [axis.dim, axis.per_row]] for path, axis in axes.items()]
        for number, axes in state.batched.layers.items()
    }
    names = {name for axes in state.batched.layers.values() for path in axes for name in path}
    if state.whole_rows or not all(isinstance(name, str | int) for name in names):
        batched = {}  # depends on the length of the rows, or cannot be written: found again
    found = {"whole_rows": state.whole_rows, "length": layout.checked_up_to(layers), "batched": batched}
    with contextlib.suppress(OSError), written_whole(file) as path:
        path.write_text(json.dumps({"sha256": _hash(found), "found": found}), encoding="utf-8")
