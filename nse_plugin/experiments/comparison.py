"""The former place of `nse_plugin.experiments.run.comparison`: importing it gives that module."""

import sys

from nse_plugin.experiments.run import comparison

sys.modules[__name__] = comparison
