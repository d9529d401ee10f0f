"""What was asked for: a comparison, a cell of a sweep, the model, and everything that a result depends on.

Nothing here imports torch before it is needed, so that a mistake in a setting is found at once.
"""

from .checks import PlanError, known, made, positive
from .comparison import (
    ABILITY,
    BEFORE,
    DRIFT,
    EASYEDIT,
    METRICS,
    DataChoice,
    MethodChoice,
    Plan,
    read_facts,
)
from .model import DTYPES, ModelChoice
from .presets import preset_of

__all__ = [
    "ABILITY",
    "BEFORE",
    "DRIFT",
    "DTYPES",
    "EASYEDIT",
    "METRICS",
    "DataChoice",
    "MethodChoice",
    "ModelChoice",
    "Plan",
    "PlanError",
    "known",
    "made",
    "positive",
    "preset_of",
    "read_facts",
]
