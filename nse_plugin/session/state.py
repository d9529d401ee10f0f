"""What lasts from round to round: original weights, the history of rounds, and what was measured once.

It holds no reference to the model, so that it can be kept beside it by weak reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.method.rewind import OriginalWeights
from nse_plugin.models.identity import ModelIdentity, fingerprint
from nse_plugin.models.layout import OutputMatrix
from nse_plugin.models.layout.batched_arguments import BatchedArguments
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.session.history import History, Weights
from nse_plugin.session.report import RoundReport


class StateError(ValueError):
    """A state that does not belong to the model it is given with; the message gives the reason."""


@dataclass
class EditState:
    """Everything that lasts from round to round.

    originals: the edited matrices before the first edit. matrices: their names, by layer. history: the rounds made.
    identity: (quick, full) of the model with its original weights, which all below belongs to; None: nothing was
    computed yet. templates, moments: measured when first needed, then kept; {layer: [f, f]}. contexts: the templates'
    keys and values, kept as long as the model looks the same. batched: which arguments of the layers are batched.
    checked: up to how many tokens it was checked that the model can be replayed, by edited layers.
    """

    originals: OriginalWeights
    matrices: dict[int, str]
    history: History
    identity: tuple[str, str] | None = None
    templates: list[str] | None = None
    moments: dict[int, Tensor] | None = None
    contexts: ContextStates = field(default_factory=ContextStates, repr=False)
    batched: BatchedArguments = field(default_factory=BatchedArguments, repr=False)
    checked: dict[tuple[int, ...], int] = field(default_factory=dict)

    @classmethod
    def fresh(cls, matrices: Mapping[int, OutputMatrix], read: Callable[[Tensor], str] = fingerprint) -> EditState:
        """The state of a model that has not been edited: its present weights are the original ones.

        read: takes the fingerprint of one matrix, [d, f] or as its module stores it.
        """
        return cls(OriginalWeights.of(matrices), names_of(matrices), History(weights_of(matrices, read)))

    @property
    def layers(self) -> list[int]:
        """The edited layers."""
        return sorted(self.originals.tensors)

    @property
    def knowledge(self) -> ProtectedKeys:
        """The protected keys Kp of all rounds made."""
        return self.history.knowledge

    @property
    def reports(self) -> list[RoundReport]:
        """One a round, in order."""
        return [made.report for made in self.history.rounds]

    def branched(self) -> EditState:
        """A state that is continued separately. Shared are tensors, which are never changed, `contexts`, which are
        cleared when they do not fit a model, and `batched`, which is found once."""
        return dataclasses.replace(self)

    def forget_measured(self) -> None:
        """Forget all that was computed of the model; the original weights and the rounds stay."""
        self.templates = self.moments = None
        self.contexts, self.batched, self.checked = ContextStates(), BatchedArguments(), {}
        self.identity = None

    def at(self, now: Weights) -> EditState | None:
        """The state with the rounds that stand when the weights are `now`; None when they were changed by others."""
        history = self.history.standing(now)
        if history is None or history is self.history:
            return None if history is None else self
        return dataclasses.replace(self, history=history)

    def identity_of(self, model: nn.Module, matrices: Mapping[int, OutputMatrix]) -> tuple[str, str]:
        """(quick, full) of the model as it is now, but for its edited matrices, which count as the original ones.

        The full one is computed again only when the quick one has changed.
        """
        with torch.inference_mode(False), self.originals.rewound(matrices):
            identity = ModelIdentity(model)
            quick = identity.quick()
            return self.identity if self.identity and self.identity[0] == quick else (quick, identity.full())

    def fitting(self, model: nn.Module, matrices: Mapping[int, OutputMatrix], now: Weights) -> EditState:
        """A branch with the rounds that stand on these matrices of a model, whose weights are `now`.

        Where something else of the model is another (an adapter that was switched, layers that are not edited), the
        rounds stand and nothing that was measured does. Raises StateError when the state is of other matrices or
        weights.
        """
        if self.matrices != names_of(matrices):
            raise StateError(
                f"state is of a model edited in {', '.join(self.matrices.values())}, and these hyperparameters edit "
                f"{', '.join(names_of(matrices).values())}: use the same layers, or begin without a state."
            )
        state = self.at(now)
        if state is None:
            raise StateError(
                "state does not belong to this model's weights: they are neither those before its first round nor "
                "those after any of them. Give the model as one of its rounds left it, or begin without a state."
            )
        branch = state.branched()
        if self.identity is not None and self.identity_of(model, matrices)[1] != self.identity[1]:
            branch.forget_measured()
        return branch


def weights_of(matrices: Mapping[int, OutputMatrix], read: Callable[[Tensor], str] = fingerprint) -> Weights:
    """Fingerprints of matrices as they are now, by layer. read: takes that of one weight, [d, f] or [f, d]."""
    return {layer: read(matrix.weight.data) for layer, matrix in matrices.items()}


def names_of(matrices: Mapping[int, OutputMatrix]) -> dict[int, str]:
    """The names of matrices, by layer."""
    return {layer: matrix.name for layer, matrix in matrices.items()}
