"""Prompts as a model reads them: token rows, in plain text or in a chat."""

from nse_plugin.models.prompts.encoding import (
    EncodedPrompt,
    FactPrompts,
    encode_fact,
    pad_right,
    split_target,
    without_end,
)

__all__ = ["EncodedPrompt", "FactPrompts", "encode_fact", "pad_right", "split_target", "without_end"]
