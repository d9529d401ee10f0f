"""What lasts from round to round: original weights, the history of rounds, and what was measured once.

It holds no reference to the model, so that it can be kept beside it by weak reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nse_plugin.method.knowledge import Knowledge
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.identity import fingerprint
from nse_plugin.models.layout import OutputMatrix
from nse_plugin.models.replay import ContextStates
from nse_plugin.replay.batched import BatchedArguments
from nse_plugin.session.history import History, Weights
from nse_plugin.session.report import RoundReport


class StateError(ValueError):
    """A state that does not belong to the model it is given with; the message says why."""


@dataclass
class EditState:
    """Everything that lasts from round to round.

    originals: the edited matrices before the first edit. matrices: their names, by layer. history: the rounds made.
    templates, moments: measured on the original weights when first needed, then kept; {layer: [f, f]}. contexts: the
    templates' keys and values on the original weights, kept as long as the model looks the same. identity: (quick,
    full) of the original model, where it was needed. batched: which arguments of the layers are batched. checked: for
    which of `ModelIdentity.unseen` it was checked that the model's layers can be replayed.
    """

    originals: OriginalWeights
    matrices: dict[int, str]
    history: History
    templates: list[str] | None = None
    moments: dict[int, Tensor] | None = None
    contexts: ContextStates = field(default_factory=ContextStates, repr=False)
    identity: tuple[str, str] | None = None
    batched: BatchedArguments = field(default_factory=BatchedArguments, repr=False)
    checked: set[str | None] = field(default_factory=set, repr=False)

    @classmethod
    def fresh(cls, matrices: Mapping[int, OutputMatrix], read: Callable[[Tensor], str] = fingerprint) -> EditState:
        """The state of a model that has not been edited: its present weights are the original ones."""
        return cls(OriginalWeights.of(matrices), _names(matrices), History(weights_of(matrices, read)))

    @property
    def layers(self) -> list[int]:
        """The edited layers."""
        return sorted(self.originals.tensors)

    @property
    def knowledge(self) -> Knowledge:
        """The protected keys Kp of all rounds made."""
        return self.history.knowledge

    @property
    def reports(self) -> list[RoundReport]:
        """One a round, in order."""
        return [made.report for made in self.history.rounds]

    def branched(self) -> EditState:
        """A state that goes on separately. Tensors are shared: what a state sees of them is never changed."""
        return dataclasses.replace(self, checked=set(self.checked))

    def at(self, now: Weights) -> EditState | None:
        """The state with the rounds that stand when the weights are `now`; None when they were changed by others."""
        history = self.history.standing(now)
        if history is None or history is self.history:
            return None if history is None else self
        return dataclasses.replace(self, history=history)

    def fitting(self, matrices: Mapping[int, OutputMatrix], now: Weights) -> EditState:
        """The state with the rounds that stand on these matrices, whose weights are `now`. Raises StateError when it is
        of others."""
        if self.matrices != _names(matrices):
            raise StateError(
                f"state is of a model edited in {', '.join(self.matrices.values())}, and these hyperparameters edit "
                f"{', '.join(_names(matrices).values())}: use the same layers, or begin without a state."
            )
        state = self.at(now)
        if state is None:
            raise StateError(
                "state does not belong to this model's weights: they are neither those before its first round nor "
                "those after any of them. Give the model as one of its rounds left it, or begin without a state."
            )
        return state


def weights_of(matrices: Mapping[int, OutputMatrix], read: Callable[[Tensor], str] = fingerprint) -> Weights:
    """Fingerprints of matrices as they are now, by layer. read: takes that of one tensor."""
    return {layer: read(matrix.weight.data) for layer, matrix in matrices.items()}


def _names(matrices: Mapping[int, OutputMatrix]) -> dict[int, str]:
    return {layer: matrix.name for layer, matrix in matrices.items()}
