"""The available algorithms: EasyEdit's, NSE, and those of this package."""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType

from nse_plugin.baselines import grace
from nse_plugin.baselines.lifelong.memory import Apply
from nse_plugin.baselines.mend import apply_mend_to_model
from nse_plugin.easyedit.register import register


def available_algorithms() -> list[str]:
    """Return the names of all algorithms: those in EasyEdit's `ALG_DICT`, NSE, and the baselines that EasyEdit lacks.

    Raises ImportError if there is no EasyEdit.
    """
    return sorted(all_algorithms())


def is_available(alg_name: str) -> bool:
    """Whether there is an algorithm of this name for the imported EasyEdit."""
    return alg_name in all_algorithms()


def all_algorithms() -> dict[str, Apply]:
    """Return EasyEdit's registry with NSE and missing baselines added, and with two algorithms replaced.

    MEND: this package's version accepts a model of any name. GRACE: main's version looks up one position of a row, at
    the length of the last edited prompt, and so forgets every fact whose prompt has another length.
    """
    register()
    algorithms: dict[str, Apply] = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    register_missing(algorithms)
    return {**algorithms, "MEND": apply_mend_to_model, "GRACE": grace.apply_grace_to_model}


def modules_of(algorithm: Apply) -> list[ModuleType]:
    """Return the EasyEdit modules that implement an algorithm; [] for algorithms of this package."""
    package = inspect.unwrap(algorithm).__module__.rpartition(".")[0]
    if not package.startswith("easyeditor.models."):
        return []
    return [module for name, module in sys.modules.items() if name.startswith(f"{package}.")]


def register_missing(algorithms: dict[str, Apply]) -> None:
    """Add to `algorithms`, EasyEdit's `ALG_DICT`, the baselines of this package that it lacks; repeating changes
    nothing.

    EasyEdit's main has GRACE, the PyPI wheel of 2023 does not.
    """
    algorithms.setdefault("GRACE", grace.apply_grace_to_model)
