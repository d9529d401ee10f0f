"""Plans of experiments: a comparison, a cell of a sweep, the model, and everything that a result depends on.

Nothing here imports torch before it is needed, so that a mistake in a setting is reported at once.
"""

from nse_plugin.experiments.plan.checks import PlanError, known, made, positive
from nse_plugin.experiments.plan.comparison import (
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
from nse_plugin.experiments.plan.model import DTYPES, ModelChoice
from nse_plugin.experiments.plan.presets import preset_of

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
