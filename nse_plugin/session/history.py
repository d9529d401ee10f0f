"""The rounds made on a model's edited matrices, and which of them its present weights hold.

Weights may be put back without anyone saying so: EasyEdit restores them after an edit, a user loads an old state_dict.
So every round is kept with a fingerprint of the weights that it left. Weights equal to those after round k hold rounds
1 to k, however many later ones were undone; weights that no round left were changed by someone else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from nse_plugin.method.knowledge import Knowledge
from nse_plugin.session.report import RoundReport

Weights = Mapping[int, str]  # fingerprints of the edited matrices, by layer


@dataclass(frozen=True)
class Round:
    """One round that was made.

    after: the weights it left. keys: {layer: [m, f]} in main memory, what later rounds protect of it. report: what it
    did.
    """

    after: Weights
    keys: Mapping[int, Tensor]
    report: RoundReport


@dataclass(frozen=True)
class History:
    """The rounds of a model, in order. Never changed: `extended` and `standing` make others.

    start: the weights before the first of `rounds`. protected_before: keys of still earlier rounds, whose weights are
    not known. knowledge: these and the keys of `rounds`.
    """

    start: Weights
    rounds: tuple[Round, ...] = ()
    protected_before: Knowledge = field(default_factory=Knowledge)
    knowledge: Knowledge = field(default_factory=Knowledge)

    def extended(self, after: Weights, keys: Mapping[int, Tensor], report: RoundReport) -> History:
        """This history and one more round. keys: {layer: [m, f]}, wherever they are."""
        made = Round(after, {layer: k.cpu() for layer, k in keys.items()}, report)
        return History(self.start, (*self.rounds, made), self.protected_before, self.knowledge.extended(keys))

    def standing(self, now: Weights) -> History | None:
        """The rounds that stand when the weights are `now`; None when neither a round nor the start left these."""
        for count in range(len(self.rounds), 0, -1):
            if self.rounds[count - 1].after == now:
                return self._first(count)
        return self._first(0) if self.start == now else None

    def _first(self, count: int) -> History:
        if count == len(self.rounds):
            return self
        knowledge = self.protected_before
        for made in self.rounds[:count]:
            knowledge = knowledge.extended(made.keys)
        return History(self.start, self.rounds[:count], self.protected_before, knowledge)
