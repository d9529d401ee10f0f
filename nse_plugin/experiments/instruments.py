"""The former place of `nse_plugin.experiments.measure.instruments`: importing it gives that module."""

import sys

from nse_plugin.experiments.measure import instruments

sys.modules[__name__] = instruments
