"""Write an edited checkpoint to a new folder; only files with an edited tensor are rewritten."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from nse_plugin.patch.columns import ChangedColumns, PatchError, check_on, write
from nse_plugin.patch.file import write_tensors
from nse_plugin.patch.patch import EditPatch
from nse_plugin.patch.weights import NamedMatrix, hash_of, tensor_hash
from nse_plugin.support.files import folder_written_whole

log = logging.getLogger(__name__)


def write_overlay(patch: EditPatch, checkpoint: Path, folder: Path, link: bool) -> Path:
    """Write the checkpoint with the edits applied and return the folder.

    checkpoint: the folder of the base model, with safetensors files. link: True makes the other files hard links to
    those of the checkpoint (symbolic links on another file system), False copies them. Raises PatchError, before
    anything is written, if the checkpoint's edited matrices differ from those of the base, `folder` exists or is within
    the checkpoint, or the checkpoint is not a folder. Warns if other weights differ.
    """
    if folder.exists():
        raise PatchError(f"{folder} is there already: name a new folder.")
    if folder.resolve().is_relative_to(checkpoint.resolve()):
        raise PatchError(f"{folder} is within the checkpoint's folder: name a folder elsewhere.")
    if not checkpoint.is_dir():
        raise PatchError(f"{checkpoint} is no folder: give the folder of the base model's checkpoint.")
    edited = _files_of(patch, checkpoint)
    _warn_of_other_weights(patch, checkpoint)
    with folder_written_whole(folder) as aside:
        for path in sorted(checkpoint.rglob("*")):
            target = aside / path.relative_to(checkpoint)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif path in edited:
                _write_edited(path, edited[path], target)
            else:
                _put(path, target, link)
    return folder


Edited = Mapping[str, tuple[int, ChangedColumns]]  # (layer, columns) by the tensor's name in the file


def _files_of(patch: EditPatch, checkpoint: Path) -> dict[Path, dict[str, tuple[int, ChangedColumns]]]:
    """Return the edited tensors of each file. Raises PatchError if one is missing or differs from the patch's base."""
    found: dict[Path, dict[str, tuple[int, ChangedColumns]]] = {}
    missing = dict(patch.columns)
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                for layer, one in patch.columns.items():
                    if one.name == name or one.name.endswith(f".{name}"):  # GPT-2's file lacks "transformer."
                        matrix = NamedMatrix(one.name, opened.get_tensor(name), one.transposed)
                        check_on({layer: one}, {layer: matrix}, "old")
                        if tensor_hash(matrix.weight) != patch.before[layer]:
                            raise PatchError(f"{path}: {name} is not the base's: give the checkpoint that was edited.")
                        found.setdefault(path, {})[name] = layer, one
                        missing.pop(layer, None)
    if missing:
        name = next(iter(missing.values())).name
        raise PatchError(f"{checkpoint} has no safetensors file with {name}: give the base model's checkpoint.")
    return found


def _warn_of_other_weights(patch: EditPatch, checkpoint: Path) -> None:
    """Warn if weights that are not edited differ from those of the base, as in a fine-tuned model. Only checkpoints
    that use the model's parameter names, such as those of `save_pretrained`, are checked."""
    named: dict[str, str] = {}
    left_out = set(patch.matrices.values())
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name not in left_out:
                    named[name] = tensor_hash(opened.get_tensor(name))
                left_out.discard(name)
    if not left_out and hash_of(named) != patch.others:
        log.warning(
            "%s has other weights, beside the edited ones, than the model that was edited: some facts may not hold "
            "there.", checkpoint,
        )  # fmt: skip


def _write_edited(path: Path, edited: Edited, target: Path) -> None:
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata() or {"format": "pt"}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for name, (layer, one) in edited.items():
        write({layer: one}, {layer: NamedMatrix(one.name, tensors[name], one.transposed)}, "new")
    write_tensors(target, tensors, metadata)


def _put(path: Path, target: Path, link: bool) -> None:
    if not link:
        shutil.copyfile(path, target)
        return
    try:
        os.link(path.resolve(), target)
    except OSError:
        target.symlink_to(path.resolve())
