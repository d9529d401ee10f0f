"""The rounds made on a model's edited matrices, and which of them the current weights contain.

Weights may be restored without notice: EasyEdit restores them after an edit, or a user loads an old state_dict.
Every round is therefore kept with a fingerprint of the weights it left and with its predecessor. If the current weights
are those that a round left, that round and its predecessors are active, regardless of which rounds were undone or made
since; weights that no round left were changed by other code.
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
    """The input of a round.

    facts: all given facts, including those that were not written. on_conflict: what to do with facts that an earlier
    round wrote with another target, as in `EditSession.edit`. author, reason: who requested the round, and why. time:
    UTC, ISO 8601. settings: the hyperparameters. given_values: whether z was given instead of computed.
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
    """One completed round.

    below: the index in `History.made` of the round before it; None if it was made on the start weights. after: the
    fingerprints of the weights it left. keys: {layer: [m, f]} in main memory, its keys, which later rounds protect.
    report: the round's report. facts: the facts it wrote, including facts of earlier rounds that it wrote again.
    request: its input; None if not kept. columns: its changes; None if not kept or on disk. master_columns: {layer:
    (neurons [m], columns [m, d])}, the changed columns of the master copies, if the model has them. id: identifies the
    round's content and all rounds before it. moments, masters: fingerprints of the second moments that it used and of
    the master copies that it left; only set for rounds on disk.
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
    """The rounds of a model. Immutable: `extended`, `standing` and `first` return new histories.

    start: the fingerprints of the weights before the first of `rounds`. made: every round ever made, including rounds
    that were undone by restoring weights, so that they are recognised when their weights return; such a round takes the
    memory of its keys, like an active round. last: the index in `made` of the last active round; None if there is none.
    protected_before, facts_before: the protected keys and the facts of rounds before `start`, whose weights are not
    known. knowledge: `protected_before` and the keys of `rounds`. masters: the master copies (`masters.py`) that the
    last active round left; None if the model has none or they are not known.
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
        """The active rounds, in order."""
        found = []
        place = self.last
        while place is not None:
            found.append(self.made[place])
            place = self.made[place].below
        return tuple(reversed(found))

    @property
    def now(self) -> Weights:
        """The fingerprints of the weights that the last active round left."""
        return self.start if self.last is None else self.made[self.last].after

    def standing_facts(self, facts: Sequence[Fact]) -> list[Fact]:
        """Return the facts of the active rounds that share a name of the subject with these facts.

        If several facts have the same question, only the last one is returned.
        """
        names = {name.strip() for fact in facts for name in fact.names}
        written = {fact.question: fact for fact in self.written if any(name.strip() in names for name in fact.names)}
        return list(written.values())

    @property
    def written(self) -> list[Fact]:
        """The facts of the active rounds, in order; a fact that was written again is listed again."""
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
        """Return this history with one more round. keys: {layer: [m, f]}, on any device. facts: those the round wrote.
        masters: the master copies that it left. more: other fields of `Round`."""
        made = Round(self.last, after, {layer: k.cpu() for layer, k in keys.items()}, report, tuple(facts), **more)
        return dataclasses.replace(
            self, made=(*self.made, made), last=len(self.made), knowledge=self.knowledge.extended(keys), masters=masters
        )

    def standing(self, now: Weights) -> History | None:
        """Return the history with the rounds that are active if the weights are `now`; None if these are neither the
        start weights nor those that a round left."""
        if now == self.now:
            return self
        for place in reversed(range(len(self.made))):
            if self.made[place].after == now:
                return self.up_to(place)
        return self.up_to(None) if self.start == now else None

    def first(self, count: int) -> History:
        """Return the history of the first `count` active rounds, as if no other rounds had ever been made."""
        rounds = self.rounds[:count]
        made = tuple(dataclasses.replace(one, below=place - 1 if place else None) for place, one in enumerate(rounds))
        return dataclasses.replace(self, made=made).up_to(len(made) - 1 if made else None)

    def up_to(self, last: int | None) -> History:
        """Return the history whose last active round has this index in `made`; None for no active round."""
        history = dataclasses.replace(self, last=last, masters=None)
        knowledge = self.protected_before
        for made in history.rounds:
            knowledge = knowledge.extended(made.keys)
        return dataclasses.replace(history, knowledge=knowledge)
