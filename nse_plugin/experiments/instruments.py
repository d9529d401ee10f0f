"""Former import path of `nse_plugin.experiments.measure.instruments`, kept as an alias of that module."""

import sys

from nse_plugin.experiments.measure import instruments

sys.modules[__name__] = instruments
