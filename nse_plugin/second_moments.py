"""The former name of `nse_plugin.moments.provider`: importing it gives that module."""

import sys

from nse_plugin.moments import provider

sys.modules[__name__] = provider
