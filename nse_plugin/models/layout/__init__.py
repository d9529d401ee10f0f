"""The location of the modules and weights that NSE needs in a model."""

from nse_plugin.models.layout.layout import Layout, ReplayState
from nse_plugin.models.layout.output_matrix import EDITABLE_DTYPES, LayoutError, OutputMatrix
from nse_plugin.models.layout.structure import is_attention
from nse_plugin.models.layout.structure import mlp_writers as _writers  # the name that external scripts import

__all__ = ["EDITABLE_DTYPES", "Layout", "LayoutError", "OutputMatrix", "ReplayState", "_writers", "is_attention"]
