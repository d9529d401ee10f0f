"""Which models were found to be replayable, kept in the user's cache so that a new process does not check them again.

    cache_home()/checked_models/<address>.json      what `check.py` found out, as `ReplayState` has it

The address is a hash of everything the result depends on: the model's identity, its devices, the releases of torch and
transformers, and the source of this package's model code. A model with classes of other packages is checked in every
process, because functions that its classes call could change without changing its identity.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from nse_plugin.models.layout import Layout
from nse_plugin.models.layout.batched_arguments import Axis, BatchedArguments
from nse_plugin.replay.check import check_model
from nse_plugin.support.files import cache_home, written_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_LIBRARIES = ("torch.", "transformers.", "peft.")


def check_new_model(
    layout: Layout,
    layers: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    identity: str | None,
    longest: int = 1,
) -> None:
    """Run `check_model` unless this model was checked before for these layers and rows of `longest` tokens, in this
    process or an earlier one. Raises LayoutError.

    identity: the full identity of the model with its original weights; None if it has hooks or replaced methods: then
    the check is not kept.
    """
    file = None if identity is None or not _is_librarys(layout.model) else _file(layout, identity)
    if file is not None and layout.checked_up_to(layers) < longest:
        _read(file, layout)
    if layout.checked_up_to(layers) < longest:
        check_model(layout, layers, tokenizer, longest)
        if file is not None:
            _write(file, layout)


def _is_librarys(model: nn.Module) -> bool:
    return all(f"{kind.__module__}.".startswith(_LIBRARIES) for kind in {type(module) for module in model.modules()})


def _file(layout: Layout, identity: str) -> Path:
    devices = sorted({parameter.device.type for parameter in layout.model.parameters()})
    depends_on = [
        identity, devices, layout.rewrite_module_tmp, torch.__version__, transformers.__version__, _source()
    ]  # fmt: skip
    address = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()
    return cache_home() / "checked_models" / f"{address}.json"


@functools.cache
def _source() -> str:
    """Hash the source of `models` and `replay`, which the result of a check depends on."""
    hashed = hashlib.sha256()
    package = Path(__file__).parents[1]
    for room in ("models", "replay"):
        for path in sorted((package / room).rglob("*.py")):
            hashed.update(path.read_bytes())
    return hashed.hexdigest()


def _read(file: Path, layout: Layout) -> None:
    """Read what was found out into `layout.replay`; a missing or damaged file is ignored."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        checked = {tuple(layers): int(length) for layers, length in found["checked"]}
        batched = {
            int(number): {tuple(path): None if axis is None else Axis(*axis) for path, axis in axes}
            for number, axes in found["batched"].items()
        }
        whole_rows = bool(found["whole_rows"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("%s: %s", file, error)
        return
    state = layout.replay
    state.checked = {**state.checked, **checked}
    state.whole_rows = whole_rows
    if batched and not state.batched.layers:
        state.batched = BatchedArguments(batched)


def _write(file: Path, layout: Layout) -> None:
    state = layout.replay
    batched: dict[int, Any] = {
        number: [[path, axis and [axis.dim, axis.per_row]] for path, axis in axes.items()]
        for number, axes in state.batched.layers.items()
    }
    names = {name for axes in state.batched.layers.values() for path in axes for name in path}
    if state.whole_rows or not all(isinstance(name, str | int) for name in names):
        batched = {}  # depends on the length of the rows, or cannot be written: found again
    found = {"whole_rows": state.whole_rows, "checked": list(state.checked.items()), "batched": batched}
    with contextlib.suppress(OSError), written_whole(file) as path:
        path.write_text(json.dumps(found), encoding="utf-8")
