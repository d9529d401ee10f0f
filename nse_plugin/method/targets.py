"""A model's predictions of facts' targets in their bare prompts: unchanged, and with z in place of l_0's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nse_plugin.evaluation.teacher_forcing import Prediction, predict_tokens
from nse_plugin.models.attention import native_grouped_query_attention
from nse_plugin.models.frozen import frozen
from nse_plugin.models.layout import Layout
from nse_plugin.models.prompts import EncodedPrompt, FactPrompts
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.suffix import SuffixReplay

AT_ONCE = 32  # facts per batch


class TargetPredictions(NamedTuple):
    """Predictions of a target by the model that z was computed for: without z and with z."""

    before: Prediction
    under_z: Prediction


def predictions(layout: Layout, prompts: Sequence[FactPrompts]) -> list[Prediction]:
    """Predict each fact's target in its bare prompt on the current weights."""
    rows = [fact.rewrites[0] for fact in prompts]
    return predict_tokens(layout.model, [(row.ids[: _start(row) + 1], row.targets) for row in rows])


def predictions_under_values(
    layout: Layout, layer: int, prompts: Sequence[FactPrompts], values: Tensor
) -> list[TargetPredictions]:
    """Predict the targets without and with z [n, d] as the output of `layer` at the subject's last token, on the
    current weights."""
    found: list[TargetPredictions] = []
    with torch.no_grad(), frozen(layout.model), native_grouped_query_attention():
        for first in range(0, len(prompts), AT_ONCE):
            rows = [fact.rewrites[0] for fact in prompts[first : first + AT_ONCE]]
            replay = SuffixReplay(layout, layer, rows, ContextStates())
            delta = values[first : first + AT_ONCE] - replay.at_lookup.to(values)
            both = (replayed_predictions(replay, rows, one) for one in (torch.zeros_like(delta), delta))
            found += map(TargetPredictions, *both)
    return found


def replayed_predictions(replay: SuffixReplay, rows: Sequence[EncodedPrompt], delta: Tensor) -> list[Prediction]:
    """Predict the targets of n bare prompts that are replayed, with delta [n, d] added at the subject's last token."""
    places = [(n, _start(row) - row.lookup + i) for n, row in enumerate(rows) for i in range(len(row.targets))]
    numbers, positions = torch.tensor(places).T
    with torch.no_grad():
        logits = torch.split(replay.logits(delta, numbers, positions), [len(row.targets) for row in rows])
        return [Prediction.of(own, row.targets) for own, row in zip(logits, rows, strict=True)]


def _start(row: EncodedPrompt) -> int:
    """Return the position that predicts the target's first token."""
    return len(row.ids) - len(row.targets)
