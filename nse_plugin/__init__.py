"""NSE (Neuron-level Sequential Editing, arXiv 2410.04045) for EasyEdit and for live models.

Public names are imported when they are first used, so that `import nse_plugin` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from nse_plugin.easyedit import NSE, make_editor, register
    from nse_plugin.facts import Fact, FactError
    from nse_plugin.hparams import HyperParamsError, NSEHyperParams
    from nse_plugin.patch.patch import EditPatch
    from nse_plugin.session import EditSession
    from nse_plugin.session.report import RoundReport

_HOMES = {
    "register": "easyedit",
    "make_editor": "easyedit",
    "NSE": "easyedit",
    "Fact": "facts",
    "FactError": "facts",
    "NSEHyperParams": "hparams",
    "HyperParamsError": "hparams",
    "EditSession": "session",
    "RoundReport": "session.report",
    "EditPatch": "patch.patch",
}
__all__ = [
    "NSE",
    "EditPatch",
    "EditSession",
    "Fact",
    "FactError",
    "HyperParamsError",
    "NSEHyperParams",
    "RoundReport",
    "make_editor",
    "register",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'nse_plugin' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nse_plugin.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def _version() -> str:
    """Return the version of the installed package, or "unknown" if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("nse-plugin")
    except PackageNotFoundError:  # not installed, only a folder on the path
        return "unknown"
