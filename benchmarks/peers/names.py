"""A model's parts by name, as the hyperparameter files of MEMIT and the authors' NSE want them."""

from __future__ import annotations

from torch import nn

from nse_plugin.models.layout import Layout


def module_names(layout: Layout, layer: int) -> dict[str, str]:
    """The fields that name modules; `{}` stands for the layer's number. layer: any edited one."""
    names = {module: name for name, module in layout.model.named_modules()}
    block = f"{names[layout.layers]}.{layer}"
    writer = layout.output_matrix(layer).name.removesuffix(".weight").removeprefix(block)
    mlp = writer.rpartition(".")[0]
    last_norm = [child for child in layout.stack.children() if isinstance(getattr(child, "weight", None), nn.Parameter)]
    embeddings: nn.Module = layout.model.get_input_embeddings()  # type: ignore[operator]
    head: nn.Module = layout.model.get_output_embeddings()  # type: ignore[operator]
    tied = head.weight is embeddings.weight  # a tied weight has one name, the embeddings'
    return {
        "rewrite_module_tmp": f"{names[layout.layers]}.{{}}{writer}",
        "layer_module_tmp": f"{names[layout.layers]}.{{}}",
        "mlp_module_tmp": f"{names[layout.layers]}.{{}}{mlp}",
        "attn_module_tmp": "",  # in the files, and never read
        "ln_f_module": names[last_norm[-1]],
        "lm_head_module": names[embeddings if tied else head],
    }


def layer_in(name: str) -> int:
    """The number in a module's name."""
    return next(int(part) for part in name.split(".") if part.isdigit())
