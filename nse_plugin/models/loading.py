"""Load a transformers causal language model and its tokenizer: from a folder, a hub, a GGUF file, or embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
GGUF = ".gguf"


def easyedit_device(device: str | torch.device) -> int | str:
    """Return a device as EasyEdit's hyperparameters name it: the index of a GPU, or the type of another device."""
    device = torch.device(device)
    return (device.index or 0) if device.type == "cuda" else device.type


def load(source: str, dtype: str = "float32", device: str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, in evaluation mode, and its tokenizer.

    source: a folder, a hub name, a GGUF file, or `embedded` for the SmolLM2-135M of `embedded_model`. Quantised weights
    are dequantised, since edits belong to the numbers that are served. dtype, device: as torch names them. Raises
    ValueError if CUDA is not available or the weights cannot be dequantised (for a GGUF file GGUFError, which is a
    ValueError), OSError if transformers cannot read the source, EmbeddedModelError.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nse_plugin.models.embedded import embedded_model, embedded_model_folder
    from nse_plugin.models.gguf.file import load_gguf

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device} cannot be used: there is no CUDA here; use cpu.")
    model: Any  # no call of `PreTrainedModel.to` and `dequantize` passes a type checker
    if source.endswith(GGUF):
        model, tokenizer = load_gguf(source, getattr(torch, dtype))
        return model.to(device), tokenizer
    if source == EMBEDDED:
        embedded_model()  # converts it on the first use
        source = str(embedded_model_folder())
    model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype))
    if getattr(model, "hf_quantizer", None) is not None:
        model = dequantised(model, getattr(torch, dtype))
    return model.to(device).eval(), AutoTokenizer.from_pretrained(source)


def dequantised(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replace the quantised matrices of a model by plain ones with the same numbers.

    Raises ValueError for a kind of quantisation that transformers cannot undo.
    """
    quantizer: Any = model.hf_quantizer
    method = quantizer.quantization_config.quant_method
    if method == "torchao":  # its tensors have their own `dequantize`
        for module in model.modules():
            if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and type(weight.data) is not Tensor:
                module.weight = nn.Parameter(weight.dequantize().to(dtype))
        quantizer.remove_quantization_config(model)
        return model
    try:
        dequantized: PreTrainedModel = model.dequantize(dtype=dtype)  # type: ignore[no-untyped-call]
    except NotImplementedError as error:
        raise ValueError(
            f"The checkpoint is quantised by {getattr(method, 'value', method)}, which transformers cannot undo: edit "
            "a GGUF file, a torchao or a bitsandbytes checkpoint of the model, or the one in bfloat16."
        ) from error
    return dequantized
