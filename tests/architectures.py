"""Tiny random models of types that need care, or that must be refused; see `tiny.ARCHITECTURES` for the common ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from packaging.version import Version
from tiny import TEMPLATES, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from nse_plugin import EditSession
from nse_plugin.models.layout import Layout

LAYERS = [1, 2]  # edited
_SAME = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_MIX = ["sliding_attention", "full_attention"]
_HYBRID = ["linear_attention", "full_attention"] * 2
_LINEAR = {
    "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
_BERT = {**_SAME, "is_decoder": True, "num_key_value_heads": 4, "max_position_embeddings": 200, "pad_token_id": 1}
_BART = {
    "d_model": 32, "decoder_ffn_dim": 48, "encoder_ffn_dim": 48, "decoder_layers": 4, "encoder_layers": 4,
    "decoder_attention_heads": 4, "encoder_attention_heads": 4, "is_decoder": True, "max_position_embeddings": 200,
    "pad_token_id": 1, "vocab_size": 320,
}  # fmt: skip
_GEMMA4 = {
    **_SAME, "num_hidden_layers": 6, "num_global_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8,
    "layer_types": _MIX * 3, "sliding_window": 64, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 320,
}  # fmt: skip
_FALCON = {
    **_SAME, "alibi": True, "parallel_attn": False, "multi_query": False, "num_kv_heads": 4,
    "new_decoder_architecture": False,
}  # fmt: skip
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 48}
DOWN = "model.layers.{}.mlp.down_proj"

# type -> (settings, rewrite_module_tmp or None)
EXACT: dict[str, tuple[dict, str | None]] = {
    "bloom": ({"vocab_size": 320, "hidden_size": 32, "n_layer": 4, "n_head": 4}, None),  # ALiBi as [B x heads, 1, S]
    # ALiBi as [heads, 1, S]
    "mpt": (
        {"vocab_size": 320, "d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 64, "expansion_ratio": 2},
        None,
    ),
    "falcon": (_FALCON, None),
    # [B x S, d] before the MLP
    "opt": ({**_SAME, "ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1}, None),
    "qwen2_moe": ({**_SAME, **_MOE, "decoder_sparse_step": 1}, None),
    "gemma4_text": (_GEMMA4, DOWN),  # layers share a dictionary of keys and values
    "bert": (_BERT, None),  # more target tokens in a batch than positions
    "deepseek_v3": (
        {
            **_SAME, "num_key_value_heads": 4, "moe_intermediate_size": 8, "n_routed_experts": 4, "n_group": 1,
            "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 3, "q_lora_rank": 8, "kv_lora_rank": 8,
            "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 4,
        },
        None,
    ),
    # rows are run whole: positions that they count by themselves
    "roberta": (_BERT, None), "roformer": (_BERT, None), "camembert": (_BERT, None), "bart": (_BART, None),
    "mbart": (_BART, None), "pegasus": (_BART, None),
    # rows are run whole: state spaces, linear attention, convolutions, state in the modules
    "mamba": ({**_SAME, "state_size": 8, "time_step_rank": 4}, None),
    "lfm2": ({**_SAME, "layer_types": ["conv", "full_attention"] * 2, "block_auto_adjust_ff_dim": False}, None),
    "falcon_h1": ({**_SAME, "head_dim": 8, "mamba_d_ssm": 64, **_MAMBA}, None),
    "qwen3_5_text": ({**_SAME, **_LINEAR, "layer_types": _HYBRID}, None),
    "recurrent_gemma": (
        {**_SAME, "num_key_value_heads": 1, "block_types": ["recurrent", "attention"], "lru_width": 32, "head_dim": 8,
         "attention_window_size": 8, "intermediate_size": 96},
        None,
    ),
}  # fmt: skip
REFUSED: dict[str, tuple[dict, str | None]] = {
    # four residual streams
    "gemma3n_text": (
        {**_SAME, "layer_types": _MIX * 2, "head_dim": 8, "intermediate_size": [48] * 4, "laurel_rank": 8,
         "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "hidden_size_per_layer_input": 8,
         "vocab_size_per_layer_input": 320, "num_kv_shared_layers": 0},
        DOWN,
    ),
    # relative positions of a segment
    "xlnet": ({"d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 48, "vocab_size": 320, "pad_token_id": 0}, None),
}  # fmt: skip


WHOLE_ROWS = (
    "roberta", "roformer", "camembert", "bart", "mbart", "pegasus", "mamba", "lfm2", "falcon_h1", "qwen3_5_text",
    "recurrent_gemma",
)  # fmt: skip
# Refused on transformers 4, or of another form there.
_SINCE_5 = ("bloom", "mpt", "bert", "qwen2_moe", *WHOLE_ROWS)
_NOT_IN_FLOAT64 = ("qwen2_moe", "deepseek_v3")  # torch's grouped products of experts


def random_model(kind: str, dtype: torch.dtype = torch.float64, **changes):
    """A random model of a type of `EXACT` or `REFUSED`; the test is skipped where transformers does not have it."""
    if kind in _SINCE_5 and Version(transformers.__version__) < Version("5"):
        pytest.skip(f"{kind}: on transformers 5 only")
    dtype = torch.float32 if kind in _NOT_IN_FLOAT64 else dtype
    settings, _ = (EXACT | REFUSED)[kind]
    try:
        config = AutoConfig.for_model(kind, **{**settings, **changes})
    except ValueError as error:
        pytest.skip(f"this transformers has no {kind}: {error}")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    return model


def name_of_w_out(kind: str) -> str | None:
    return (EXACT | REFUSED)[kind][1]


def session_on(model, hparams, name=None, **settings):
    """A session on one of these models. name: of W_out, where it must be named."""
    layout = Layout.of(model, name)
    moments = {}
    for layer in LAYERS:
        size = layout.output_matrix(layer).matrix.shape[1]
        k = torch.randn(200, size, dtype=torch.float64, generator=torch.Generator().manual_seed(layer))
        moments[layer] = (k.T @ k / 200).to(model.dtype)
    chosen = dataclasses.replace(hparams, rewrite_module_tmp=name, **settings)
    return EditSession(model, tiny_tokenizer(), chosen, moments, list(TEMPLATES))
