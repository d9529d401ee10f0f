"""The rounds made on a model's edited matrices, and which of them its present weights hold.

Weights may be put back without anyone saying so: EasyEdit restores them after an edit, a user loads an old state_dict.
So every round is kept with a fingerprint of the weights that it left, and with the round that it was made on. Weights
that a round left hold that round and those below it, whatever was undone or made since; weights that no round left were
changed by someone else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from nse_plugin.facts import Fact
from nse_plugin.method.knowledge import Knowledge
from nse_plugin.session.report import RoundReport

Weights = Mapping[int, str]  # fingerprints of the edited matrices, by layer


@dataclass(frozen=True, eq=False)
class Round:
    """One round that was made.

    below: the place in `History.made` of the round it was made on; None: it was made on the first weights. after: the
    weights it left. keys: {layer: [m, f]} in main memory, what later rounds protect of it. report: what it did. facts:
    those it wrote, also those of earlier rounds that it wrote again.
    """

    below: int | None
    after: Weights
    keys: Mapping[int, Tensor]
    report: RoundReport
    facts: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class History:
    """The rounds of a model. Never changed: `extended` and `standing` make others.

    start: the weights before the first of `rounds`. made: every round ever made, the undone ones too, so that they are
    known when their weights come back: an undone round costs the memory of its keys, as one that stands does. last: the
    place in `made` of the last one that stands; None: none does. protected_before, facts_before: of still earlier
    rounds, whose weights are not known. knowledge: the former and the keys of `rounds`.
    """

    start: Weights
    made: tuple[Round, ...] = ()
    last: int | None = None
    protected_before: Knowledge = field(default_factory=Knowledge)
    facts_before: tuple[Fact, ...] = ()
    knowledge: Knowledge = field(default_factory=Knowledge)

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those that stand, in order."""
        found = []
        place = self.last
        while place is not None:
            found.append(self.made[place])
            place = self.made[place].below
        return tuple(reversed(found))

    def standing_facts(self, facts: Sequence[Fact]) -> list[Fact]:
        """The facts of its rounds that have a subject in common with these, each as it was written last."""
        names = {name.strip() for fact in facts for name in fact.names}
        written = {fact.question: fact for fact in self.written if any(name.strip() in names for name in fact.names)}
        return list(written.values())

    @property
    def written(self) -> list[Fact]:
        """The facts of its rounds, in order; one that was written again stands there again."""
        return [*self.facts_before, *(fact for made in self.rounds for fact in made.facts)]

    def extended(
        self, after: Weights, keys: Mapping[int, Tensor], report: RoundReport, facts: Sequence[Fact] = ()
    ) -> History:
        """This history and one more round. keys: {layer: [m, f]}, wherever they are. facts: that it wrote."""
        made = Round(self.last, after, {layer: k.cpu() for layer, k in keys.items()}, report, tuple(facts))
        return dataclasses.replace(
            self, made=(*self.made, made), last=len(self.made), knowledge=self.knowledge.extended(keys)
        )

    def standing(self, now: Weights) -> History | None:
        """The history with the rounds that stand when the weights are `now`; None when neither a round nor the start
        left these."""
        if now == (self.start if self.last is None else self.made[self.last].after):
            return self
        for place in reversed(range(len(self.made))):
            if self.made[place].after == now:
                return self._up_to(place)
        return self._up_to(None) if self.start == now else None

    def _up_to(self, last: int | None) -> History:
        history = dataclasses.replace(self, last=last)
        knowledge = self.protected_before
        for made in history.rounds:
            knowledge = knowledge.extended(made.keys)
        return dataclasses.replace(history, knowledge=knowledge)
