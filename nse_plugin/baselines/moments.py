"""Second moments for other methods, measured as for NSE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nse_plugin.easyedit.algorithm import ALG_NAME as NSE
from nse_plugin.hparams import NSEHyperParams
from nse_plugin.models.layout import Layout
from nse_plugin.moments.provider import second_moments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def asks_for_moments(alg_name: str, hparams: Any) -> bool:
    """Whether an EasyEdit algorithm needs second moments. False for NSE, which gets its own."""
    if alg_name == NSE or not hasattr(hparams, "mom2_dataset"):
        return False
    return alg_name != "ROME" or bool(hparams.mom2_adjustment)


def moments_for(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, alg_name: str, hparams: Any, store: str | None
) -> dict[str, Tensor]:
    """Return second moments [f, f] of the layers to be edited, by module name; {} if the algorithm needs none."""
    if not asks_for_moments(alg_name, hparams):
        return {}
    wanted = {name: getattr(hparams, name) for name in ("mom2_dataset", "mom2_n_samples", "mom2_dtype", "stats_dir")}
    layout = Layout.of(model, hparams.rewrite_module_tmp)
    # alpha: any value, second moments do not depend on it
    measuring = NSEHyperParams.for_model(
        model, layers=sorted(hparams.layers), alpha=1.0, upper_bound=None, store=store, **wanted
    )
    moments = second_moments(layout, tokenizer, measuring)
    return {layout.output_matrix(layer).name.removesuffix(".weight"): moment for layer, moment in moments.items()}
