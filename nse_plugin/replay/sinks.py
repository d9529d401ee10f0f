"""Facts whose subject ends at an attention sink: at the first token of a text without a BOS, and occasionally at the
second or third.

The hidden state of a sink hardly depends on its token: its norm is many times that of other states, and it is almost
the same for all sinks (arXiv 2309.17453; "massive activations", arXiv 2402.17762). An edit of its key changes every
text and writes no fact. After other words the same subject is a token like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import FactPrompts
from nse_plugin.replay.span import SpanReplay

FIRST = 4  # only these first tokens can be sinks: on SmolLM2-135M 8 of 728 facts end at one, at positions 0 to 2
LONGER = 3.0  # times the norm of the same subject's state after other words


def early(prompts: Sequence[FactPrompts]) -> list[int]:
    """Return the facts (indices) whose subject may end at a sink and that have a generated context to use instead."""
    return [i for i, fact in enumerate(prompts) if fact.rewrites[0].lookup < FIRST and len(fact.rewrites) > 1]


def without_sinks(
    layout: Layout, layer: int, prompts: Sequence[FactPrompts], tokens_per_batch: int
) -> list[FactPrompts]:
    """Replace the bare prompt by the first generated context in facts whose lookup token is a sink.

    A sink is a lookup token among the first `FIRST` tokens of the bare prompt at which the norm of the output of
    `layer` is more than `LONGER` times that in the first generated context. Other facts, and facts without generated
    contexts, are returned unchanged.
    """
    first = early(prompts)
    found = list(prompts)
    if not first:
        return found
    rows = [row for i in first for row in prompts[i].rewrites[:2]]
    with torch.no_grad(), frozen(layout.model):
        _, h = SpanReplay(layout, [layer], rows, tokens_per_batch).run()
    bare, after_words = h.float().norm(dim=1).view(-1, 2).T
    for i, is_sink in zip(first, (bare > LONGER * after_words).tolist(), strict=True):
        if is_sink:
            found[i] = _after_words(prompts[i])
    return found


def _after_words(fact: FactPrompts) -> FactPrompts:
    context = fact.rewrites[1]
    essence = replace(context, ids=context.to_lookup, targets=())
    return replace(fact, rewrites=(context, *fact.rewrites[1:]), essence=essence)
