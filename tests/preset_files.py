"""Where the preset files are, and what they must contain."""

from __future__ import annotations

from pathlib import Path

from nse_plugin.hparams import NSEHyperParams

ROOT = Path(__file__).parents[1]


# arXiv 2410.04045 and its code: layers, alpha, upper_bound, p, max_iterations, v_lr, steps, lambda
PUBLISHED = {
    "gpt2-xl": ([13, 14, 15, 16, 17], 35, 150, 1.0, 3, 0.5, 20, 10000),
    "gpt-j-6B": ([3, 4, 5, 6, 7, 8], 15, 100, 0.8, 3, 0.5, 25, 15000),
    "llama3-8b": ([4, 5, 6, 7, 8], 2.5, 50, 1.0, 3, 0.1, 25, 15000),
}


FIGURES = (
    "layers", "alpha", "upper_bound", "p", "max_iterations", "v_lr", "v_num_grad_steps", "mom2_update_weight"
)  # fmt: skip


def authors_file(name: str) -> dict:
    """A file with the keys of the authors' repository and of EasyEdit's MEMIT, none of them NSE's own."""
    layers, alpha, upper_bound, p, max_iterations, v_lr, steps, weight = PUBLISHED[name]
    return {
        "model_name": "Some-Model", "layers": layers, "clamp_norm_factor": 0.75, "layer_selection": "all",
        "fact_token": "subject_last", "v_num_grad_steps": steps, "v_lr": v_lr, "v_loss_layer": 31,
        "v_weight_decay": 0.5, "kl_factor": 0.0625, "mom2_adjustment": True, "mom2_update_weight": weight,
        "rewrite_module_tmp": "model.layers.{}.mlp.down_proj", "layer_module_tmp": "model.layers.{}",
        "mlp_module_tmp": "model.layers.{}.mlp", "attn_module_tmp": "model.layers.{}.self_attn",
        "ln_f_module": "model.norm", "lm_head_module": "lm_head", "mom2_dataset": "wikipedia",
        "mom2_n_samples": 100000, "mom2_dtype": "float32", "alpha": alpha, "upper_bound": upper_bound,
        "max_iterations": max_iterations, "neuron_threshold": p,
    }  # fmt: skip


def figures_of(hparams: NSEHyperParams) -> tuple:
    return tuple(getattr(hparams, name) for name in FIGURES)
