"""Load a model from a GGUF file, with dequantised weights: the numbers that llama.cpp computes with.

An edit belongs to the numbers it was written on: written on float weights and served at Q4_0, SmolLM2 keeps 36 of 51
facts; written on the dequantised Q4_0 weights, 54 of 60.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers.models import Unigram

from nse_plugin.models.embedded import read_config, read_model, read_tokenizer
from nse_plugin.models.gguf.sentencepiece import bpe_of
from nse_plugin.models.gguf.special_tokens import adds_bos, let_add_bos

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_PRE_TOKENIZER = "smollm"  # transformers treats it as Llama's; `read_tokenizer` supports it


class GGUFError(ValueError):
    """A GGUF file that cannot be read as a model; the message gives the remedy."""


def load_gguf(file: str | Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model with dequantised weights, in evaluation mode on the CPU, and its tokenizer.

    The tokenizer puts a BOS before a text exactly when the file's `add_bos_token` says so, as in llama.cpp; if the file
    has no such field, the tokenizer is left as it was read. Needs the package `gguf`. Raises GGUFError if the file
    cannot be read or its architecture is not supported.
    """
    path = Path(file)
    reader = open_gguf(path)
    with _reading(path, reader):
        model = _read_model(path, reader, dtype)
        tokenizer = _read_tokenizer(path, reader)
    log.info("%s: weights dequantised; a BOS before every text: %s", path, adds_bos(tokenizer))
    model.config._name_or_path = path.name
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer


def gguf_config(file: str | Path) -> PretrainedConfig:
    """Load the model's configuration without its weights. Raises GGUFError."""
    path = Path(file)
    reader = open_gguf(path)
    with _reading(path, reader):
        if _is_smollm(reader):
            return read_config(reader)
        from transformers import AutoConfig

        config: PretrainedConfig = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        return config


def gguf_tokenizer(file: str | Path) -> PreTrainedTokenizerBase:
    """Load the same tokenizer as `load_gguf`, without the model. Raises GGUFError."""
    path = Path(file)
    reader = open_gguf(path)
    with _reading(path, reader):
        return _read_tokenizer(path, reader)


def open_gguf(path: Path) -> GGUFReader:
    """Open the GGUF file of a language model. Raises GGUFError if it cannot be read, holds something else, such as an
    adapter, or the package `gguf` is not installed."""
    try:
        state = path.stat()
        reader = _reader(str(path.resolve()), state.st_mtime_ns, state.st_size)
    except ImportError as error:
        raise GGUFError("GGUF files need the package gguf: pip install gguf.") from error
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise GGUFError(f"{path} cannot be read as GGUF ({error}): give a GGUF file of a language model.") from error
    if _field(reader, f"{_field(reader, 'general.architecture')}.block_count") is None:
        raise GGUFError(f"{path} holds no language model (general.type: {_field(reader, 'general.type')}): give one.")
    return reader


@lru_cache(maxsize=1)
def _reader(path: str, modified: int, size: int) -> GGUFReader:
    """Read a file's metadata, which takes seconds (a vocabulary is 50,000 entries); a command asks several times."""
    from gguf import GGUFReader

    return GGUFReader(path)


@contextmanager
def _reading(path: Path, reader: GGUFReader) -> Iterator[None]:
    """Run the block with errors of reading the model raised as GGUFError."""
    try:
        yield
    except (KeyError, ValueError, RuntimeError, OSError, NotImplementedError) as error:
        raise GGUFError(
            f"{path} cannot be loaded as a {_field(reader, 'general.architecture')} model ({error}): transformers must "
            "read its architecture; else edit the checkpoint that the file was made of."
        ) from error


def _is_smollm(reader: GGUFReader) -> bool:
    kind = _field(reader, "general.architecture"), _field(reader, "tokenizer.ggml.pre")
    return kind == ("llama", _PRE_TOKENIZER)


def _read_model(path: Path, reader: GGUFReader, dtype: torch.dtype) -> PreTrainedModel:
    if _is_smollm(reader):
        own = read_model(reader)
        own.to(dtype)  # type: ignore[arg-type]
        return own
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=dtype)
    return model


def _read_tokenizer(path: Path, reader: GGUFReader) -> PreTrainedTokenizerBase:
    if _is_smollm(reader):
        tokenizer: PreTrainedTokenizerBase = read_tokenizer(reader)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        backend = tokenizer.backend_tokenizer
        if _field(reader, "tokenizer.ggml.model") == "llama" and isinstance(backend.model, Unigram):
            tokens, scores = (_field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "scores"))
            backend.model = bpe_of(tokens, scores, tokenizer.unk_token)
    adds = _field(reader, "tokenizer.ggml.add_bos_token")
    if adds is not None:
        let_add_bos(tokenizer, bool(adds))
    return tokenizer


def _field(reader: GGUFReader, name: str) -> Any:
    """Return a metadata value; None if the file has no such field."""
    field = reader.fields.get(name)
    return None if field is None else field.contents()
