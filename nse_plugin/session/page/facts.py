"""The facts of a session as listed on its page: every fact of every round, with its current state."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nse_plugin.facts import Fact
from nse_plugin.method.multilayer import FAILED
from nse_plugin.session.answers import before_and_after
from nse_plugin.session.folder.record import RoundRecord
from nse_plugin.session.report import KEPT

if TYPE_CHECKING:
    from nse_plugin.session.session import EditSession

_TOKENS = 20  # per continuation
HOLDS, LOST, REPLACED, AGAIN, NOT_WRITTEN = "holds", "does not hold", "replaced", "written again", "not written"


@dataclass(frozen=True)
class Now:
    """The current model's predictions for a fact. holds, probability, overwritten_by: as in `EditSession.check`.
    before, after: the continuations of the prompt by the unedited and the edited model."""

    holds: bool
    probability: float
    overwritten_by: Sequence[int | str]
    before: str
    after: str


class Place(NamedTuple):
    """The position of a fact: the round's number, and the fact's number in the round, from 1."""

    round: int
    number: int

    @property
    def anchor(self) -> str:
        """The fact's HTML id on the page."""
        return f"fact-{self.round}-{self.number}"


@dataclass(frozen=True)
class FactRow:
    """One fact of one round.

    status, before, after, is_said: from the round's report (before, after: probability of the target; None if the fact
    was not written). later: the last later fact with the same prompt and subject: its position and target. now: the
    model's predictions; None without the model, for facts that were not written, and for facts that a later round wrote
    again.
    """

    place: Place
    fact: Fact
    status: str
    before: float | None
    after: float | None
    is_said: bool
    later: tuple[Place, str] | None
    now: Now | None

    @property
    def state(self) -> str:
        """The fact's current state in one to three words; without the model, its status after the round."""
        if self.status in (KEPT, FAILED):
            return NOT_WRITTEN
        if self.later is not None:
            return AGAIN if self.later[1] == self.fact.target_new else REPLACED
        if self.now is not None:
            return HOLDS if self.now.holds else LOST
        return self.status.replace("_", " ")


Key = tuple[int, str, str, str]  # round, subject, prompt and target of a fact


def ask(session: EditSession) -> dict[Key, Now]:
    """Check every fact on the session's model, and continue each prompt with the unedited and the edited model."""
    rows = session.check().to_dict("records")
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    written = dict(zip(prompts, before_and_after(session, prompts, _TOKENS, or_fewer=True), strict=True))
    return {
        (row["round"], row["subject"], row["prompt"], row["target"]): Now(
            row["holds"], row["probability"], row["overwritten_by"], *written[row["prompt"]]
        )
        for row in rows
    }


def fact_rows(records: Sequence[RoundRecord], now: Mapping[Key, Now]) -> list[FactRow]:
    """Return one row per fact of each round, in order. now: the result of `ask`; empty without the model."""
    written: dict[Hashable, list[tuple[Place, str]]] = defaultdict(list)
    for record in records:
        for number, (fact, status) in enumerate(zip(record.facts, record.statuses, strict=True), 1):
            if status not in (KEPT, FAILED):
                written[fact.question].append((Place(record.number, number), fact.target_new))
    return [row for record in records for row in _rows_of(record, written, now)]


def _rows_of(
    record: RoundRecord, written: Mapping[Hashable, Sequence[tuple[Place, str]]], now: Mapping[Key, Now]
) -> list[FactRow]:
    reported = record.report.frame.to_dict("records")
    rows = []
    for number, (fact, row) in enumerate(zip(record.facts, reported, strict=True), 1):
        later = [one for one in written.get(fact.question, ()) if one[0].round > record.number]
        rows.append(
            FactRow(
                Place(record.number, number),
                fact,
                row["status"],
                _number(row["target_before"]),
                _number(row["target_after"]),
                bool(row["is_said"]),
                later[-1] if later else None,
                now.get((record.number, fact.subject, fact.text, fact.target_new)),
            )
        )
    return rows


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
