"""The former place of `nse_plugin.experiments.run.cell`: importing it gives that module."""

import sys

from nse_plugin.experiments.run import cell

sys.modules[__name__] = cell
