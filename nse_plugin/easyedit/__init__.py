"""The only room that knows EasyEdit: NSE as one of its algorithms."""

from .algorithm import NSE, apply_nse_to_model
from .editor import make_editor
from .register import register

__all__ = ["NSE", "apply_nse_to_model", "make_editor", "register"]
