"""What is found out about a model the first time that its layers are replayed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nse_plugin.models.layout import Layout
from nse_plugin.models.layout.batched_arguments import BatchedArguments
from nse_plugin.models.prompts import EncodedPrompt
from nse_plugin.replay.prefix_cache import PrefixCache, extended, suffix_inputs


def check_once(layout: Layout, layers: Sequence[int], prompts: Sequence[EncodedPrompt]) -> None:
    """The first time that a layout's layers are replayed, or in so long rows, check that they can be. Raises
    LayoutError."""
    longest = max(len(prompt.ids) for prompt in prompts)
    if layout.checked.get(layers[-1], 0) < longest:
        from nse_plugin.replay.check import check_replay  # which replays them

        check_replay(layout, layers, prompts[0].ids, longest)


def batched_arguments(layout: Layout, prompts: Sequence[EncodedPrompt]) -> BatchedArguments:
    """Where rows lie in what the layout's layers are called with; the first time, two small runs of the model find out.

    prompts: some rows of tokens that the model knows.
    """
    ids = next(prompt.ids for prompt in prompts)
    ids = (ids * 5)[:5]
    rows = [(ids[:3], ids[3:5]), (ids[:1], ids[1:4]), (ids[:1], ids[1:4])]  # padded on either side, alike in both runs

    def run(count: int) -> None:
        prefixes, suffixes = zip(*rows[:count], strict=True)
        with torch.no_grad():
            prefix = extended(layout, PrefixCache.empty(count, layout.device), prefixes)
            layout.model(**suffix_inputs(layout, prefix, suffixes))

    layout.batched.find(list(layout.layers), run)
    return layout.batched
