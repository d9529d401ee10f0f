"""NSE's hyperparameters: the dataclass, values for known models, and hyperparameter files."""

from nse_plugin.hparams.errors import HyperParamsError
from nse_plugin.hparams.settings import NSEHyperParams
from nse_plugin.hparams.tuned import TUNED_FOR

__all__ = ["TUNED_FOR", "HyperParamsError", "NSEHyperParams"]
