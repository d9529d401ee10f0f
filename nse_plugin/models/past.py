"""The former name of `nse_plugin.replay.prefix_cache`; importing it gives that module."""

import sys

from nse_plugin.replay import prefix_cache

sys.modules[__name__] = prefix_cache
