"""Former import path of `nse_plugin.experiments.run.cell`, kept as an alias of that module."""

import sys

from nse_plugin.experiments.run import cell

sys.modules[__name__] = cell
