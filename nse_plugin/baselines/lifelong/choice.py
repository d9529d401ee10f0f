"""Select the EasyEdit algorithms that run with their own memory."""

from __future__ import annotations

from nse_plugin.baselines.lifelong.alphaedit import AlphaEdit
from nse_plugin.baselines.lifelong.memory import Apply, StatefulMethod
from nse_plugin.baselines.lifelong.ultraedit import UltraEdit
from nse_plugin.baselines.lifelong.wise import WISE

_CLASSES: dict[str, type[StatefulMethod]] = {"AlphaEdit": AlphaEdit, "WISE": WISE, "ULTRAEDIT": UltraEdit}


def with_own_memory(alg_name: str, apply: Apply) -> Apply:
    """Return the algorithm for one sequence of rounds: a new `StatefulMethod` if this module has one, otherwise `apply`
    itself."""
    return _CLASSES[alg_name](apply) if alg_name in _CLASSES else apply
