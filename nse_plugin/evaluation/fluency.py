"""The former name of `nse_plugin.evaluation.metrics.fluency`: importing this module gives that one."""

import sys

from nse_plugin.evaluation.metrics import fluency

sys.modules[__name__] = fluency
