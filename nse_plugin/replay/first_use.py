"""Checks and measurements made the first time that a model's layers are replayed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nse_plugin.models.layout import Layout
from nse_plugin.models.layout.batched_arguments import BatchedArguments
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay.prefix_cache import PrefixCache, extended, suffix_inputs


def check_once(layout: Layout, layers: Sequence[int], prompts: Sequence[EncodedPrompt]) -> None:
    """Check that a layout's layers can be replayed: at their first replay, and again for rows longer than any checked
    so far. Raises LayoutError."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if layout.checked_up_to(layers) < longest:
        from nse_plugin.replay.check import check_replay  # it imports the replays, which import this module

        check_replay(layout, layers, prompts[0].ids, longest)


def batched_arguments(layout: Layout, prompts: Sequence[EncodedPrompt]) -> BatchedArguments:
    """Return the batch axes of the layout's layer arguments; the first call finds them by two forward passes.

    prompts: some rows of tokens that the model knows.
    """
    ids = prompts[0].ids * 5

    def run_after_prefixes(count: int) -> None:
        rows = [(ids[:3], ids[3:5]), (ids[:1], ids[1:4]), (ids[:1], ids[1:4])]  # padded on both sides, alike both times
        prefixes, suffixes = zip(*rows[:count], strict=True)
        with torch.no_grad():
            prefix = extended(layout, PrefixCache.empty(count, layout.device), prefixes)
            layout.model(**suffix_inputs(layout, prefix, suffixes))

    def run_whole(count: int) -> None:
        # as long as those to come: masks of a sliding window are left out in rows that are no longer than the window
        longest = max(len(prompt.ids) for prompt in prompts)
        rows = [(ids * longest)[:longest]] * count
        with torch.no_grad():
            layout.model(**suffix_inputs(layout, PrefixCache.empty(count, layout.device), rows))

    run = run_whole if layout.replay.whole_rows else run_after_prefixes

    layout.replay.batched.find(list(layout.layers), run)
    return layout.replay.batched
