"""Facts: what a model should say from now on, from whatever form people have them in."""

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.fact import Fact
from nse_plugin.facts.texts import Pair

__all__ = ["Fact", "FactError", "Pair"]
