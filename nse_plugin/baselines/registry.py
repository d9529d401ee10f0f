"""The algorithms there are: EasyEdit's, NSE, and those of this room."""

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
    """The names that EasyEdit's `ALG_DICT` knows, NSE and the baselines that EasyEdit lacks among them.

    Raises ImportError when there is no EasyEdit.
    """
    return sorted(all_algorithms())


def is_available(alg_name: str) -> bool:
    """Whether the imported EasyEdit has an algorithm of this name."""
    return alg_name in all_algorithms()


def all_algorithms() -> dict[str, Apply]:
    """EasyEdit's registry with NSE and what it lacks, and two of its algorithms replaced by ours.

    MEND: ours takes a model of any name. GRACE: main's looks one position of a row up, the last edited prompt's length,
    and so forgets every fact whose prompt has another.
    """
    register()
    algorithms: dict[str, Apply] = importlib.import_module("easyeditor.util.alg_dict").ALG_DICT
    register_missing(algorithms)
    return {**algorithms, "MEND": apply_mend_to_model, "GRACE": grace.apply_grace_to_model}


def modules_of(algorithm: Apply) -> list[ModuleType]:
    """The modules of EasyEdit that an algorithm is made of; none for those of this package."""
    package = inspect.unwrap(algorithm).__module__.rpartition(".")[0]
    if not package.startswith("easyeditor.models."):
        return []
    return [module for name, module in sys.modules.items() if name.startswith(f"{package}.")]


def register_missing(algorithms: dict[str, Apply]) -> None:
    """Add to `algorithms`, EasyEdit's `ALG_DICT`, the methods of this room that it has not; repeating changes nothing.

    EasyEdit's main has a GRACE, the PyPI wheel of 2023 has none.
    """
    algorithms.setdefault("GRACE", grace.apply_grace_to_model)
