"""The rounds made on a model's edited matrices, and which of them its present weights hold.

Weights may be restored without notice: EasyEdit restores them after an edit, a user loads an old state_dict.
So every round is kept with a fingerprint of the weights that it left, and with the round that it was made on. Weights
that a round left hold that round and those below it, whatever was undone or made since; weights that no round left were
changed by someone else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nse_plugin.facts import Fact
from nse_plugin.method.protected_keys import ProtectedKeys
from nse_plugin.patch.columns import Columns
from nse_plugin.session.report import RoundReport

Weights = Mapping[int, str]  # fingerprints of the edited matrices, by layer


@dataclass(frozen=True)
class Request:
    """What a round is asked to do.

    facts: all that were given, also those that were not written. on_conflict: what becomes of those that an earlier
    round wrote with another target. author, reason: who asked for it, and why. time: UTC, ISO 8601. settings: the
    hyperparameters. given_values: whether z was given and not computed.
    """

    facts: tuple[Fact, ...]
    on_conflict: str = "replace"
    author: str | None = None
    reason: str | None = None
    time: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    given_values: bool = False


@dataclass(frozen=True, eq=False)
class Round:
    """One round that was made.

    below: the place in `History.made` of the round it was made on; None: it was made on the first weights. after: the
    weights it left. keys: {layer: [m, f]} in main memory, what later rounds protect of it. report: what it did. facts:
    those it wrote, also those of earlier rounds that it wrote again. request: what it was asked to do; None: not kept.
    columns: what it changed; None: not kept, or on disk. master_columns: {layer: (neurons [m], columns [m, d])}, what
    it made of master copies, if the model has such. id: its own, of all that it is and the rounds below it. moments,
    masters: fingerprints of the second moments that it was made with, and of the master copies that it left; of rounds
    on disk.
    """

    below: int | None
    after: Weights
    keys: Mapping[int, Tensor]
    report: RoundReport
    facts: tuple[Fact, ...] = ()
    request: Request | None = None
    columns: Columns | None = None
    master_columns: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    id: str = ""
    moments: Weights = field(default_factory=dict)
    masters: Weights = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """The rounds of a model. Never changed: `extended`, `standing` and `first` make others.

    start: the weights before the first of `rounds`. made: every round ever made, also those that were undone by putting
    weights back, so that they are known when their weights come back: such a round costs the memory of its keys, as one
    that stands does. last: the place in `made` of the last one that stands; None: none does. protected_before,
    facts_before: of still earlier rounds, whose weights are not known. knowledge: the former and the keys of `rounds`.
    masters: the master copies (`masters.py`) that the last of them left; None: there are none, or they are not known.
    """

    start: Weights
    made: tuple[Round, ...] = ()
    last: int | None = None
    protected_before: ProtectedKeys = field(default_factory=ProtectedKeys)
    facts_before: tuple[Fact, ...] = ()
    knowledge: ProtectedKeys = field(default_factory=ProtectedKeys)
    masters: Mapping[int, Tensor] | None = None

    @property
    def rounds(self) -> tuple[Round, ...]:
        """Those that stand, in order."""
        found = []
        place = self.last
        while place is not None:
            found.append(self.made[place])
            place = self.made[place].below
        return tuple(reversed(found))

    @property
    def now(self) -> Weights:
        """The weights that the last round which stands left."""
        return self.start if self.last is None else self.made[self.last].after

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
        self,
        after: Weights,
        keys: Mapping[int, Tensor],
        report: RoundReport,
        facts: Sequence[Fact] = (),
        masters: Mapping[int, Tensor] | None = None,
        **more: Any,
    ) -> History:
        """This history and one more round. keys: {layer: [m, f]}, wherever they are. facts: that it wrote. masters: as
        it left them. more: of the round's other fields."""
        made = Round(self.last, after, {layer: k.cpu() for layer, k in keys.items()}, report, tuple(facts), **more)
        return dataclasses.replace(
            self, made=(*self.made, made), last=len(self.made), knowledge=self.knowledge.extended(keys), masters=masters
        )

    def standing(self, now: Weights) -> History | None:
        """The history with the rounds that stand when the weights are `now`; None when neither a round nor the start
        left these."""
        if now == self.now:
            return self
        for place in reversed(range(len(self.made))):
            if self.made[place].after == now:
                return self.up_to(place)
        return self.up_to(None) if self.start == now else None

    def first(self, count: int) -> History:
        """The history with the first `count` of the rounds that stand, as if no others had ever been made."""
        rounds = self.rounds[:count]
        made = tuple(dataclasses.replace(one, below=place - 1 if place else None) for place, one in enumerate(rounds))
        return dataclasses.replace(self, made=made).up_to(len(made) - 1 if made else None)

    def up_to(self, last: int | None) -> History:
        """The history whose last round that stands is at this place of `made`."""
        history = dataclasses.replace(self, last=last, masters=None)
        knowledge = self.protected_before
        for made in history.rounds:
            knowledge = knowledge.extended(made.keys)
        return dataclasses.replace(history, knowledge=knowledge)
