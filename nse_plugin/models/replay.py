"""The former location of `nse_plugin.replay`; its classes can still be imported from here."""

from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.span import SpanReplay
from nse_plugin.replay.suffix import SuffixReplay

__all__ = ["ContextStates", "SpanReplay", "SuffixReplay"]
