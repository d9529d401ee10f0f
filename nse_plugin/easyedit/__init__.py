"""NSE as an algorithm of EasyEdit."""

from nse_plugin.easyedit.algorithm import NSE, apply_nse_to_model
from nse_plugin.easyedit.editor import make_editor
from nse_plugin.easyedit.register import register

__all__ = ["NSE", "apply_nse_to_model", "make_editor", "register"]
