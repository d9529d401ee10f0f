"""The hyperparameters that MEMIT and the authors' NSE share, including the names of a model's modules."""

from __future__ import annotations

from typing import Any

from torch import nn

from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout


def memit_fields(layout: Layout, ours: NSEHyperParams) -> dict[str, Any]:
    """Return the fields that both have, with our values. Second moments are passed in: `mom2_dataset` is empty."""
    return {
        **module_names(layout, ours.layers[0]),
        "layers": ours.layers,
        "layer_selection": "all",
        "fact_token": "subject_last",
        "v_num_grad_steps": ours.v_num_grad_steps,
        "v_lr": ours.v_lr,
        "v_loss_layer": len(layout.layers) - 1,
        "v_weight_decay": ours.v_weight_decay,
        "clamp_norm_factor": ours.clamp_norm_factor,
        "kl_factor": ours.kl_factor,
        "mom2_adjustment": True,
        "mom2_update_weight": ours.mom2_update_weight,
        "mom2_dataset": "",
        "mom2_n_samples": 1,
        "mom2_dtype": "float32",
    }


def module_names(layout: Layout, layer: int) -> dict[str, str]:
    """Return the fields that name modules, with `{}` for the layer's number. layer: any edited layer."""
    names = {module: name for name, module in layout.model.named_modules()}
    block = f"{names[layout.layers]}.{layer}"
    writer = layout.output_matrix(layer).name.removesuffix(".weight").removeprefix(block)
    mlp = writer.rpartition(".")[0]
    last_norm = [child for child in layout.stack.children() if isinstance(getattr(child, "weight", None), nn.Parameter)]
    embeddings: nn.Module = layout.model.get_input_embeddings()  # type: ignore[operator]
    head: nn.Module = layout.model.get_output_embeddings()  # type: ignore[operator]
    tied = head.weight is embeddings.weight  # a tied weight has only one name, that of the embeddings
    return {
        "rewrite_module_tmp": f"{names[layout.layers]}.{{}}{writer}",
        "layer_module_tmp": f"{names[layout.layers]}.{{}}",
        "mlp_module_tmp": f"{names[layout.layers]}.{{}}{mlp}",
        "attn_module_tmp": "",  # a field of their files that the code never reads
        "ln_f_module": names[last_norm[-1]],
        "lm_head_module": names[embeddings if tied else head],
    }


def layer_in(name: str) -> int:
    """Return the layer number in a module's name."""
    return next(int(part) for part in name.split(".") if part.isdigit())
