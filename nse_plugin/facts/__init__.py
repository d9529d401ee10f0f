"""Facts: what a model should predict after an edit, read from any common format."""

from nse_plugin.facts.errors import FactError
from nse_plugin.facts.fact import Fact
from nse_plugin.facts.texts import Pair

__all__ = ["Fact", "FactError", "Pair"]
