"""Export a patch for llama.cpp and Ollama: as a LoRA adapter, or as a model file with the edited matrices."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nse_plugin.models.gguf.file import GGUFError, open_gguf
from nse_plugin.patch.columns import ChangedColumns, PatchError
from nse_plugin.patch.export.factors import factors_of, warn_if_truncated
from nse_plugin.patch.patch import EditPatch
from nse_plugin.support.files import written_whole

if TYPE_CHECKING:
    from gguf import GGUFReader

log = logging.getLogger(__name__)


def write_gguf_lora(patch: EditPatch, file: Path, base: Path, rank: int | None = None) -> Path:
    """Write a float32 adapter for the GGUF file `base` and return its path. Needs the package `gguf`.

    rank: as in `factors_of`. All layers have the same rank, because llama.cpp divides the adapter's single alpha by the
    rank of each tensor. Warns if `base` has other weights than the edited model had (with another quantisation of the
    same model, only some of the facts hold) or treats BOS differently, and if the adapter has a lower rank than the
    change. Raises PatchError if `file` is `base` itself, or if `base` is not the GGUF file of a language model or lacks
    the edited matrices.
    """
    reader = _read_base(base, file)
    from gguf import GGUFWriter

    factors = factors_of(patch, rank)
    names = _names(patch, reader)
    _warn_of(patch, reader, names, base)
    warn_if_truncated(factors)
    with written_whole(file) as temporary:
        writer = GGUFWriter(str(temporary), _text(reader, "general.architecture"))
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(next(iter(factors.values())).a.shape[0]))
        writer.add_string("nse.others", patch.others)
        for layer, one in factors.items():
            writer.add_tensor(f"{names[layer]}.lora_a", one.a.numpy())
            writer.add_tensor(f"{names[layer]}.lora_b", one.b.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return file


def write_gguf_model(patch: EditPatch, file: Path, base: Path) -> Path:
    """Write a copy of the GGUF file `base` with the edited matrices, and return its path.

    The edited matrices keep their type of quantisation. Needs the package `gguf`, which quantises the types Q4_0 to
    Q8_0, F16, BF16 and F32. Raises PatchError for a type that `gguf` cannot quantise (write an adapter instead), or if
    `file` is `base` itself or `base` is not the file whose dequantised weights were edited.
    """
    reader = _read_base(base, file)
    from gguf import GGMLQuantizationType, quantize

    names = _names(patch, reader)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    written: dict[int, Any] = {}
    for layer, one in patch.columns.items():
        tensor = tensors[names[layer]]
        matrix = _matrix(tensor)
        if not _is_base(one, matrix):
            raise PatchError(
                f"{base}: {tensor.name} is not what was edited: give the file that the edits were made on."
            )
        matrix[:, one.neurons.numpy()] = one.new.float().numpy().T
        kind = GGMLQuantizationType(tensor.tensor_type)
        try:
            data = quantize(matrix, kind)
        except NotImplementedError as error:
            raise PatchError(
                f"{base}: {tensor.name} is of type {kind.name}, which the package gguf cannot write: make an adapter "
                "(to_gguf_lora) instead."
            ) from error
        written[tensor.data_offset] = data.view(np.uint8)
    with written_whole(file) as temporary:
        shutil.copyfile(base, temporary)
        with temporary.open("r+b") as stream:
            for offset, data in written.items():
                stream.seek(int(offset))
                stream.write(np.ascontiguousarray(data).tobytes())
    return file


def _read_base(base: Path, file: Path) -> GGUFReader:
    """Open the model `base`, of which `file` is to be made. Raises PatchError if it cannot be read or is `file`."""
    if file.resolve() == base.resolve():
        raise PatchError(f"{file} is the base model itself: name another file to write.")
    try:
        return open_gguf(base)
    except GGUFError as error:
        raise PatchError(str(error)) from error


def _warn_of(patch: EditPatch, reader: GGUFReader, names: Mapping[int, str], base: Path) -> None:
    """Warn if the file has other weights, or another BOS setting, than the model on which the facts were written."""
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if not all(_is_base(one, _matrix(tensors[names[layer]])) for layer, one in patch.columns.items()):
        log.warning(
            "%s has other weights than the edits were written on, and some will not hold there (of 51 facts written on "
            "float weights Q4_0 kept 36): edit that file itself (--model %s).", base, base,
        )  # fmt: skip
    field = reader.fields.get("tokenizer.ggml.add_bos_token")
    if field is not None and patch.adds_bos is not None and bool(field.contents()) != patch.adds_bos:
        log.warning(
            "%s is served %s a BOS before every prompt, and the facts were written %s one: some will not hold there.",
            base, *(("without", "with") if patch.adds_bos else ("with", "without")),
        )  # fmt: skip


def _matrix(tensor: Any) -> Any:
    """Dequantise a tensor, [d, f] float32."""
    from gguf import dequantize

    return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def _is_base(one: ChangedColumns, matrix: Any) -> bool:
    """Return whether a matrix [d, f], in the dtype of the edited model, has the columns from before the edits."""
    found = torch.from_numpy(matrix[:, one.neurons.numpy()].T).to(one.old.dtype)
    return torch.equal(found, one.old)


def _names(patch: EditPatch, reader: GGUFReader) -> dict[int, str]:
    """Return the name of each edited matrix in the file, by layer. Raises PatchError if the file has no such matrix."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = _text(reader, "general.architecture")
    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    if architecture not in known:
        raise PatchError(f"the package gguf knows no architecture {architecture!r}: install a newer one.")
    count = int(reader.fields[f"{architecture}.block_count"].contents())
    mapping = get_tensor_name_map(known[architecture], count)
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
    found: dict[int, str] = {}
    for layer, one in patch.columns.items():
        name = mapping.get_name(one.name, try_suffixes=(".weight",))
        if name is None or shapes.get(name) != one.shape:
            raise PatchError(
                f"the GGUF file is of another model: it has {shapes.get(name or '', 'nothing')} where {one.name} is "
                f"{one.shape}."
            )
        found[layer] = name
    return found


def _text(reader: GGUFReader, name: str) -> str:
    return str(reader.fields[name].contents())
