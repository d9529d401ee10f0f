"""Which of EasyEdit's algorithms are run with a memory of their own."""

from __future__ import annotations

from nse_plugin.baselines.lifelong.alphaedit import AlphaEdit
from nse_plugin.baselines.lifelong.memory import Apply, StatefulMethod
from nse_plugin.baselines.lifelong.ultraedit import UltraEdit
from nse_plugin.baselines.lifelong.wise import WISE

_CLASSES: dict[str, type[StatefulMethod]] = {"AlphaEdit": AlphaEdit, "WISE": WISE, "ULTRAEDIT": UltraEdit}


def with_own_memory(alg_name: str, apply: Apply) -> Apply:
    """EasyEdit's algorithm for one sequence of rounds: a new `StatefulMethod` for those of this file, else as it is."""
    return _CLASSES[alg_name](apply) if alg_name in _CLASSES else apply
