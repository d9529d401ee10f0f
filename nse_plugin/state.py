"""What a sequence of edits remembers of a model: its original weights, what is protected, and what was measured once.

The state holds no reference to the model, so that it can be kept beside it by weak reference.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from nse_plugin.method.knowledge import Knowledge
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.layout import Layout
from nse_plugin.models.replay import ContextStates

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class RoundReport:
    """What one round did. No fact is dropped silently: each has a row.

    frame: pandas, a row per fact: case_id; status (`done`, `off_target`: residual still above alpha,
    `skipped_upper_bound`: preset released only, `failed`: not finite, left out); residual_before, residual:
    norm(z - h) in the unit of the hidden states; passes: updates it took part in; seconds: its share of the round's
    time.
    seconds: the round's wall time by part: "moments" (found or measured, in the first round), "values", "update".
    values_from_store: how many of its z were read and not computed.
    """

    frame: pandas.DataFrame
    seconds: dict[str, float] = field(default_factory=dict)
    values_from_store: int = 0

    def __str__(self) -> str:
        counts = self.frame["status"].value_counts()
        statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
        return f"{len(self.frame)} facts: {statuses}; {self.frame['seconds'].sum():.1f} s"


@dataclass
class EditState:
    """Everything that lasts from round to round.

    originals: the edited matrices before the first edit. knowledge: the protected keys Kp. reports: one a round.
    templates, moments: measured on the original weights when first needed, then kept; {layer: [f, f]}. contexts: the
    templates' keys and values on the original weights, kept as long as the model looks the same.
    """

    originals: OriginalWeights
    knowledge: Knowledge = field(default_factory=Knowledge)
    reports: list[RoundReport] = field(default_factory=list)
    templates: list[str] | None = None
    moments: dict[int, Tensor] | None = None
    contexts: ContextStates = field(default_factory=ContextStates, repr=False)

    @classmethod
    def fresh(cls, layout: Layout, layers: list[int]) -> EditState:
        """The state of a model nobody has edited: its present weights are the original ones."""
        return cls(OriginalWeights.of(layout.output_matrices(layers)))

    @property
    def layers(self) -> list[int]:
        """The edited layers."""
        return sorted(self.originals.tensors)

    def branched(self) -> EditState:
        """A state that goes on separately. Tensors are shared: what a state sees of them is never changed."""
        return dataclasses.replace(self, reports=list(self.reports))
