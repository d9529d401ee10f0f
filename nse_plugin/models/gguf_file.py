"""A model out of a GGUF file: its dequantised weights, the numbers that llama.cpp computes with.

An edit belongs to the numbers it was written on: written on float weights and served at Q4_0, SmolLM2 keeps 36 of 51
facts; written on the dequantised Q4_0 weights, it says 54 of 60.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nse_plugin.models.embedded import read_model, read_tokenizer
from nse_plugin.models.special_tokens import adds_bos, let_add_bos

if TYPE_CHECKING:
    from gguf import GGUFReader

log = logging.getLogger(__name__)

_PRE_TOKENIZER = "smollm"  # that transformers takes for Llama's, and `read_tokenizer` knows


class GGUFError(ValueError):
    """A GGUF file that cannot be read as a model; the message says what to do."""


def load_gguf(file: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The model with dequantised weights, in evaluation mode on the CPU, and its tokenizer.

    The tokenizer puts a BOS before a text exactly when the file says that llama.cpp does (`add_bos_token`). Needs the
    package `gguf`. Raises GGUFError where the file, or its architecture, cannot be read.
    """
    path = Path(file)
    reader = open_gguf(path)
    architecture = _field(reader, "general.architecture")
    if _field(reader, f"{architecture}.block_count") is None:
        raise GGUFError(f"{path} holds no language model (general.type: {_field(reader, 'general.type')}): give one.")
    try:
        model, tokenizer = _read(path, reader, dtype)
    except (KeyError, ValueError, RuntimeError, OSError, NotImplementedError) as error:
        raise GGUFError(
            f"{path} cannot be loaded as a {architecture} model ({error}): transformers must read its architecture; "
            "else edit the checkpoint that the file was made of."
        ) from error
    said = _field(reader, "tokenizer.ggml.add_bos_token")
    if said is not None:
        let_add_bos(tokenizer, bool(said))
    log.info("%s: weights dequantised; a BOS before every text: %s", path, adds_bos(tokenizer))
    model.config._name_or_path = path.name
    return model.eval(), tokenizer


def open_gguf(path: Path) -> GGUFReader:
    """Raises GGUFError where it cannot be read, or the package `gguf` is not installed."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise GGUFError("GGUF files need the package gguf: pip install gguf.") from error
    try:
        return GGUFReader(str(path))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise GGUFError(f"{path} cannot be read as GGUF ({error}): give a GGUF file of a language model.") from error


def _read(path: Path, reader: GGUFReader, dtype: torch.dtype) -> tuple[Any, Any]:
    kind = _field(reader, "general.architecture"), _field(reader, "tokenizer.ggml.pre")
    if kind == ("llama", _PRE_TOKENIZER):
        return read_model(reader).to(dtype), read_tokenizer(reader)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(path.parent), path.name
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=dtype)
    return model, AutoTokenizer.from_pretrained(folder, gguf_file=name)


def _field(reader: GGUFReader, name: str) -> Any:
    """A metadata value; None where the file has none."""
    field = reader.fields.get(name)
    return None if field is None else field.contents()
