"""Settings of EasyEdit's methods for tiny models."""

from __future__ import annotations

from typing import Any

FAMILIES = {"llama": ("model.layers.{}", "mlp.down_proj", "self_attn", "model.norm", "lm_head"),
            "gpt2": ("transformer.h.{}", "mlp.c_proj", "attn", "transformer.ln_f", "transformer.wte")}  # fmt: skip
VALUE = {"fact_token": "subject_last", "v_num_grad_steps": 3, "v_lr": "1e-1", "v_loss_layer": 3, "v_weight_decay": 0.5,
         "clamp_norm_factor": 0.75, "kl_factor": 0.0625, "mom2_adjustment": True, "mom2_dataset": "self",
         "mom2_n_samples": 8, "mom2_dtype": "float32"}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "FT": {"layers": [2], "num_steps": 3, "lr": "1e-3", "weight_decay": 0, "kl_factor": 0, "norm_constraint": "5e-4",
           "objective_optimization": "prompt_last", "batch_size": 2},
    "ROME": {**VALUE, "layers": [1], "context_template_length_params": [[5, 5]], "fp16": False},
    "MEMIT": {**VALUE, "layers": [1, 2], "layer_selection": "all", "mom2_update_weight": 0.001},
    "NSE": {**{name: VALUE[name] for name in ("v_lr", "v_num_grad_steps", "mom2_dataset", "mom2_n_samples")},
            "layers": [1, 2], "alpha": 0.01, "p": 0.9, "mom2_update_weight": 0.001},
}  # fmt: skip
