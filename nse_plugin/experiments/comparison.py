"""Former import path of `nse_plugin.experiments.run.comparison`, kept as an alias of that module."""

import sys

from nse_plugin.experiments.run import comparison

sys.modules[__name__] = comparison
