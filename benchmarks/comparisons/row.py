"""One figure of a comparison, and what all of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from benchmarks.clock import Times
from benchmarks.setting import relative_difference
from nse_plugin.facts import Fact

OURS = "ours"


def ours(count: int) -> str:
    """The name of our run on so many facts, where peers are timed once for several numbers of facts."""
    return f"{OURS}, {count} facts"


class Peer(Protocol):
    """NSE done another way, see `StandIn`."""

    name: str

    def value(self, fact: Fact, steps: int | None = None, lr: float | None = None) -> Tensor: ...
    def keys(self, facts: Sequence[Fact], layer: int) -> Tensor: ...
    def outputs(self, facts: Sequence[Fact]) -> Tensor: ...
    def edit(self, facts: Sequence[Fact], values: Tensor) -> object: ...


@dataclass(frozen=True)
class Plan:
    """repeats: turns, as far as time allows. most: facts in one comparison, at most."""

    repeats: int = 3
    most: int = 100

    def counts(self, *wanted: int) -> list[int]:
        """These numbers of facts, none above `most`."""
        return list(dict.fromkeys(min(count, self.most) for count in wanted))


@dataclass(frozen=True)
class Row:
    """relation: tokens, None where it plays no part. peer_seconds, ratio: None where peers have no such stage.

    difference: the largest relative difference between the two sides' results.
    """

    case: str
    stage: str
    facts: int
    relation: int | None
    peer: str
    ours_seconds: float
    peer_seconds: float | None
    repeats: int
    difference: float | None

    @property
    def ratio(self) -> float | None:
        return None if self.peer_seconds is None else self.peer_seconds / self.ours_seconds

    @classmethod
    def of(
        cls, case: str, stage: str, facts: int, relation: int | None, peer: str, times: Mapping[str, Times],
        difference: float | None, ours: str = OURS, timed: str | None = None,
    ) -> Row:  # fmt: skip
        """ours: our run's name among the times, where there are several. timed: the stage's name there, where it is
        another."""
        seconds = times[ours].medians[timed or stage]
        theirs = times[peer].medians.get(timed or stage)
        return cls(case, stage, facts, relation, peer, seconds, theirs, times[ours].repeats, difference)


class DisagreementError(AssertionError):
    """Two sides of a comparison compute different things: their times cannot be compared."""


def agree(found: Tensor, expected: Tensor, tolerance: float, what: str) -> float:
    """The relative difference. Raises DisagreementError when it is above the tolerance, which is for float32."""
    difference = relative_difference(found, expected)
    if not difference <= tolerance:
        raise DisagreementError(f"{what}: the two sides differ by {difference:.1e}, more than {tolerance:.0e}.")
    return difference
