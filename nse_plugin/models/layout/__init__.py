"""Where a model keeps what NSE needs."""

from nse_plugin.models.layout.layout import Layout
from nse_plugin.models.layout.output_matrix import EDITABLE_DTYPES, LayoutError, OutputMatrix
from nse_plugin.models.layout.structure import is_attention
from nse_plugin.models.layout.structure import mlp_writers as _writers  # as other people's scripts import it

__all__ = ["EDITABLE_DTYPES", "Layout", "LayoutError", "OutputMatrix", "_writers", "is_attention"]
