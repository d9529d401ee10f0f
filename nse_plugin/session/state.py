"""The state kept between rounds: the original weights, the history of rounds, and everything that is measured once.

It holds no reference to the model, so that it can be stored in a dictionary with weak references to models.
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
from nse_plugin.models.layout import OutputMatrix, ReplayState
from nse_plugin.replay.context_states import ContextStates
from nse_plugin.replay.known_models import known_model
from nse_plugin.session.history import History, Weights
from nse_plugin.session.report import RoundReport


class StateError(ValueError):
    """A state that does not belong to the given model; the message gives the reason."""


@dataclass
class EditState:
    """The state kept between rounds.

    originals: the edited matrices before the first edit. matrices: their names, by layer. history: the rounds made.
    identity: (quick, full) identity of the model with its original weights, for which all following fields hold; None
    if nothing was computed yet. templates, moments: measured when first needed, then kept; moments is {layer: [f, f]}.
    contexts: the templates' keys and values, kept until the model's quick identity or device changes. replay: what
    was found out about the layers by running them.
    """

    originals: OriginalWeights
    matrices: dict[int, str]
    history: History
    identity: tuple[str, str] | None = None
    templates: list[str] | None = None
    moments: dict[int, Tensor] | None = None
    contexts: ContextStates = field(default_factory=ContextStates, repr=False)
    replay: ReplayState = field(default_factory=ReplayState, repr=False)

    @classmethod
    def fresh(cls, matrices: Mapping[int, OutputMatrix], read: Callable[[Tensor], str] = fingerprint) -> EditState:
        """Create the state of an unedited model: the current weights are taken as the original ones.

        read: computes the fingerprint of one weight, [d, f] or [f, d] as its module stores it.
        """
        return cls(OriginalWeights.of(matrices), names_of(matrices), History(weights_of(matrices, read)))

    @property
    def layers(self) -> list[int]:
        """The edited layers."""
        return sorted(self.originals.tensors)

    @property
    def knowledge(self) -> ProtectedKeys:
        """The protected keys Kp of all active rounds."""
        return self.history.knowledge

    @property
    def reports(self) -> list[RoundReport]:
        """The reports of the active rounds, in order."""
        return [made.report for made in self.history.rounds]

    def branched(self) -> EditState:
        """Return a copy of the state to continue from separately. The copy shares tensors, which are never modified,
        `contexts`, which are cleared if they do not fit a model, and `replay`."""
        return dataclasses.replace(self)

    def forget_measured(self) -> None:
        """Discard everything that was computed from the model; keep the original weights and the rounds."""
        self.templates = self.moments = None
        self.contexts, self.replay = ContextStates(), ReplayState()
        self.identity = None

    def at(self, now: Weights) -> EditState | None:
        """Return the state with the rounds that are active if the weights are `now`; None if no round left them."""
        history = self.history.standing(now)
        if history is None or history is self.history:
            return None if history is None else self
        return dataclasses.replace(self, history=history)

    def identity_of(self, model: nn.Module, matrices: Mapping[int, OutputMatrix]) -> tuple[str, str]:
        """Return the (quick, full) identity of the current model with the original weights in its edited matrices.

        The full identity is computed again only if the quick one is new to this process.
        """
        with torch.inference_mode(False), self.originals.rewound(matrices):
            quick = ModelIdentity(model).quick()
            if self.identity and self.identity[0] == quick:
                return self.identity
            originals = {layer: fingerprint(original) for layer, original in self.originals.tensors.items()}
            return quick, known_model(model, quick, originals).identity

    def fitting(self, model: nn.Module, matrices: Mapping[int, OutputMatrix], now: Weights) -> EditState:
        """Return a branch of the state for a model, with the rounds that are active if its matrices' weights are `now`.

        If other parts of the model have changed (an adapter was switched, other layers), the branch keeps the rounds
        and discards everything that was measured. Raises StateError if the state belongs to other matrices or weights.
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
    """Return the fingerprints of matrices, by layer. read: computes the one of a weight, [d, f] or [f, d]."""
    return {layer: read(matrix.weight.data) for layer, matrix in matrices.items()}


def names_of(matrices: Mapping[int, OutputMatrix]) -> dict[int, str]:
    """Return the names of matrices, by layer."""
    return {layer: matrix.name for layer, matrix in matrices.items()}
