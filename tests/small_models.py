"""A small random model of any causal language model type that the installed transformers registers.

Sizes are set by the names that configurations share (`SIZES`); what a type needs beyond them is in `SETTINGS`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LARGEST = 10_000_000  # parameters; parts for images and sound keep the size of a real model
VOCABULARY, D, F, LAYERS, HEADS, POSITIONS = 320, 32, 48, 4, 4, 64


def _named(value: int, *names: str) -> dict[str, int]:
    return dict.fromkeys(names, value)


SIZES: dict[str, Any] = {
    **_named(VOCABULARY, "vocab_size", "decoder_vocab_size", "vocab_size_per_layer_input"),
    **_named(D, "hidden_size", "n_embd", "d_model", "emb_dim", "embedding_dim", "dim", "embedding_size",
             "word_embed_proj_dim", "input_embedding_size", "output_embedding_size", "attention_hidden_size"),
    **_named(F, "intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_inner", "dim_ff",
             "dff", "ffn_hidden_size", "feed_forward_size", "intermediate_size_mlp", "lru_width"),
    **_named(LAYERS, "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
             "num_decoder_layers", "num_encoder_layers", "num_blocks"),
    **_named(HEADS, "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
             "encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads",
             "swa_num_attention_heads"),
    **_named(2, "num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_global_key_value_heads"),
    **_named(8, "head_dim", "attention_head_size", "kv_channels", "dim_head", "d_head", "v_head_dim", "swa_head_dim",
             "qk_nope_head_dim", "swa_v_head_dim", "global_head_dim", "block_size"),
    **_named(POSITIONS, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length",
             "max_target_positions", "original_max_position_embeddings"),
    # latent attention
    "qk_rope_head_dim": 4, "qk_head_dim": 12, "rotary_dim": 4, "kv_lora_rank": 16, "q_lora_rank": 16,
    "index_topk": 64, "index_head_dim": 8, "index_n_heads": 2,
    # experts
    **_named(4, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    **_named(2, "num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts", "zero_expert_num"),
    **_named(1, "n_group", "topk_group", "n_groups"),
    **_named(24, "moe_intermediate_size", "expert_ffn_hidden_size"),
    **_named(40, "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"),
    "first_k_dense_replace": 3,
    # state spaces and linear attention
    **_named(8, "mamba_d_state", "mamba_n_heads", "mamba_d_head", "mamba_chunk_size", "state_size", "ssm_state_size",
             "mamba_num_heads", "mamba_head_dim", "chunk_size", "linear_key_head_dim"),
    "mamba_n_groups": 1, "mamba_ngroups": 1, "mamba_dt_rank": 4, "time_step_rank": 4, "mamba_d_ssm": 64,
    "n_mamba_heads": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 12,
    # Gemma
    "hidden_size_per_layer_input": 8, "laurel_rank": 8, "num_kv_shared_layers": 0, "final_logit_softcapping": 3.0,
    "encoder_hash_byte_group_vocab": 50, "type_vocab_size": 2, "is_decoder": True, "initializer_range": 0.2,
    "num_mel_bins": 8, "max_source_positions": 16,
}  # fmt: skip
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window_size")  # 8, where there is one
DROPOUT = ("hidden_dropout", "attention_dropout", "layerdrop", "decoder_layerdrop")
_MIX = {"layer_types": ["sliding_attention", "full_attention"] * 2}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
_CONV = {"layer_types": ["conv", "full_attention"] * 2}
_LATENT = {"num_key_value_heads": HEADS}  # as many heads of keys as of queries
_FROM_TWO = {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}  # the first token's position is 2
_ROW_OF_FOUR = {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {**_LATENT, "layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3], "attn_rotary_emb": 4},
    "big_bird": {"attention_type": "original_full"}, "bigbird_pegasus": {"attention_type": "original_full"},
    "cohere_compass_text": {
        **_MIX,
        "rope_parameters": {
            layers: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for layers in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": F, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    **dict.fromkeys(
        ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite",
         "glm_moe_dsa", "longcat_flash", "minicpm3", "sarvam_mla", "youtu"), _LATENT,
    ),
    "longcat_flash": {**_LATENT, "num_hidden_layers": 2 * LAYERS, "head_dim": 4},
    **dict.fromkeys(("cohere2", "gemma2", "gemma3_text", "gemma4_text", "gpt_oss", "vaultgemma"), _MIX),
    "dory": {"n_input_layers": 1, "n_output_layers": 1},
    "dots1": {"n_shared_experts": 1},
    "gemma3n_text": {**_MIX, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "intermediate_size": [F] * LAYERS},
    "glm": {"pad_token_id": 0}, "glm4": {"pad_token_id": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2, "position_embedding_type": "rope"},
    "jamba": {**_ROW_OF_FOUR, "expert_layer_period": 4, "expert_layer_offset": 3},
    "kimi_linear": {**_LATENT, **_LINEAR, "linear_head_dim": 8, "linear_num_heads": HEADS},
    "lfm2": {**_CONV, "full_attn_idxs": None}, "lfm2_moe": _CONV,
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0], "moe_layers": [3]},
    "mamba2": {"num_heads": 8, "expand": 2},
    "minimax": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "mpt": {"expansion_ratio": 2},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "moe", "mamba", "moe"]},
    **dict.fromkeys(
        ("olmo_hybrid", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "qwen4_exp_text"), _LINEAR
    ),
    "phi": {"partial_rotary_factor": 0.5},
    "recurrent_gemma": {
        "block_types": ["recurrent", "attention"], "lru_width": D, "num_key_value_heads": 1, "intermediate_size": 96,
    },
    "reformer": {"attn_layers": ["local"] * LAYERS, "axial_pos_embds": False, "local_attn_chunk_length": 8},
    **dict.fromkeys(
        ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"), _FROM_TWO
    ),
    "smollm3": {"no_rope_layers": [1, 1, 1, 0]},
    "xlm": {"causal": True},
    "xmod": {**_FROM_TWO, "languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {**_ROW_OF_FOUR, "attention_head_dim": 16, "attention_hidden_size": 2 * D},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_mem_blocks": 1, "adapter_rank": 8},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
EDITED = {"nemotron_h": [1, 3]}  # the layers with an MLP, where they are not 1 and 2
# W_out, where several matrices could be it
NAMES = {
    "gemma3n_text": "model.layers.{}.mlp.down_proj", "gemma4_text": "model.layers.{}.mlp.down_proj",
    "gemma4": "model.language_model.layers.{}.mlp.down_proj",
    "axk2": "model.layers.{}.mlp.shared_experts.down_proj", "xmod": "roberta.encoder.layer.{}.output.dense",
}  # fmt: skip


def small_model(kind: str) -> torch.nn.Module:
    """A random model of this type, in float64; raises whatever transformers does if it cannot be built."""
    config = _config(CONFIG_MAPPING[kind], kind)
    for part in (config, config.get_text_config()):
        part._experts_implementation = "eager"  # torch's grouped products know no float64
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{kind} has {size:,} parameters however small its language model is")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).double().eval()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() > 1 and parameter.is_floating_point():
                parameter.normal_(std=0.2)
            elif name.endswith("bias") and "dt" not in name:
                parameter.normal_(std=0.1)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data.nan_to_num_(0)
    return model


def _config(kind: Any, name: str) -> Any:
    parts = getattr(kind, "sub_configs", None) or {}
    if "text_config" not in parts:
        return _small(kind, SETTINGS.get(name, {}))
    text = type(kind().get_text_config())
    return kind(text_config=_small(text, SETTINGS.get(text.model_type, {})).to_dict())


def _small(kind: Any, settings: dict[str, Any]) -> Any:
    own = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if name not in ("self", "kwargs")
    }
    alias = {known: name for name, known in (getattr(kind, "attribute_map", None) or {}).items()}
    sizes: dict[str, Any] = {}
    for name, default in own.items():
        if name in SIZES or alias.get(name) in SIZES:
            sizes[name] = SIZES.get(name, SIZES.get(alias.get(name, "")))
        elif name in WINDOWS and isinstance(default, int):
            sizes[name] = 8
        elif name in ("pad_token_id", "bos_token_id", "eos_token_id") and (default or 0) >= VOCABULARY:
            sizes[name] = 0
        elif name in DROPOUT and default is not None:
            sizes[name] = 0.0
    return kind(**{**sizes, **settings})


class _Double:
    """The module `torch`, but with float64 under the name float32."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def all_in_double(monkeypatch: Any) -> None:
    """Make the models that are loaded compute in float64 throughout: many have steps in float32 whatever their dtype,
    too coarse for tolerances of 1e-8."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    importlib.import_module("transformers.activations")
    for name, module in list(sys.modules.items()):
        ours = name.startswith(("transformers.models.", "transformers.integrations.", "transformers.activations",
                                "transformers.modeling_rope"))  # fmt: skip
        if ours and vars(module).get("torch") is torch:
            monkeypatch.setattr(module, "torch", _Double())
